// What kernels, agents and other servers say, in English.

import type { zhSaid } from "./zh-said.ts";

export const enSaid: Record<keyof typeof zhSaid, string> = {
  "said.original": "Original",
  "said.reportOld": "The last report is older than {seconds} s.",
  "said.redirects": "It answered {status}, and redirects are not followed.",
  "said.answered": "It answered {status}.",
  "said.address": "Its name resolves to no address that webhooks may reach.",
  "said.timeout": "Timed out.",
  "said.dns": "The name cannot be resolved.",
  "said.certificate": "The certificate is not valid.",
  "said.refused": "Connection refused.",
  "errno.1": "Operation not permitted.",
  "errno.2": "No such object.",
  "errno.12": "Out of memory.",
  "errno.16": "Device or resource busy.",
  "errno.17": "The object exists already.",
  "errno.19": "No such device.",
  "errno.22": "Invalid argument.",
  "errno.95": "Not supported by the kernel.",
  "errno.101": "Network unreachable.",
  "errno.105": "No buffer space available.",
  "problem.failed": "refused by the kernel, will be retried",
  "problem.conflict": "conflicts with an object not managed by cps-peering, left unchanged",
  "problem.missing": "an object that it needs is missing",
};
