// Whether networks overlap.

interface Net { bits: number; first: bigint; last: bigint }

/** An address; nothing for what is none, as what is still typed is. */
function address(text: string): { bits: number; value: bigint } | undefined {
  if (!text.includes(":")) {
    const parts = text.split(".");
    if (parts.length !== 4 || !parts.every((part) => /^\d{1,3}$/.test(part) && Number(part) <= 255)) return undefined;
    return { bits: 32, value: parts.reduce((sum, part) => (sum << 8n) + BigInt(part), 0n) };
  }
  const [head = "", tail, ...more] = text.split("::");
  const groups = (part: string) => (part === "" ? [] : part.split(":"));
  const [before, after] = [groups(head), groups(tail ?? "")];
  const missing = 8 - before.length - after.length;
  if (more.length > 0 || (tail === undefined ? missing !== 0 : missing < 1)) return undefined;
  const all = [...before, ...Array<string>(missing).fill("0"), ...after];
  if (!all.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return undefined;
  return { bits: 128, value: all.reduce((sum, group) => (sum << 16n) + BigInt(`0x${group}`), 0n) };
}

function net(cidr: string): Net | undefined {
  const [text = "", length, ...more] = cidr.split("/");
  const found = address(text);
  if (!found || more.length > 0 || (length !== undefined && !(/^\d{1,3}$/.test(length) && Number(length) <= found.bits))) return undefined;
  const host = BigInt(found.bits - Number(length ?? found.bits));
  const first = (found.value >> host) << host;
  return { bits: found.bits, first, last: first + (1n << host) - 1n };
}

/** Whether two CIDRs, or addresses, share an address; what is neither shares none. */
export function overlap(one: string, other: string): boolean {
  const [a, b] = [net(one), net(other)];
  return a !== undefined && b !== undefined && a.bits === b.bits && a.first <= b.last && b.first <= a.last;
}
