// Arithmetic of networks: overlap, containment, difference.

interface Net { bits: number; first: bigint; last: bigint }

/** A parsed address; undefined for an invalid one, such as one that is still being typed. */
function address(text: string): { bits: number; value: bigint } | undefined {
  if (!text.includes(":")) {
    const parts = text.split(".");
    if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255)) return undefined;
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

/** Whether two CIDRs, or addresses, share an address; invalid ones do not. */
export function overlap(one: string, other: string): boolean {
  const [a, b] = [net(one), net(other)];
  return a !== undefined && b !== undefined && a.bits === b.bits && a.first <= b.last && b.first <= a.last;
}

/** Whether all addresses of a CIDR are in another one, too. */
export function within(inner: string, outer: string): boolean {
  const [a, b] = [net(inner), net(outer)];
  return a !== undefined && b !== undefined && a.bits === b.bits && b.first <= a.first && a.last <= b.last;
}

/** An address as the controller writes it (RFC 5952): the first longest run of several zero groups is left out. */
function written(bits: number, value: bigint): string {
  const parts = (count: number, width: bigint, base: number) =>
    Array.from({ length: count }, (_, index) => ((value >> (width * BigInt(count - 1 - index))) & ((1n << width) - 1n)).toString(base));
  if (bits === 32) return parts(4, 8n, 10).join(".");
  const groups = parts(8, 16n, 16);
  const zeros = (from: number) => groups.slice(from).findIndex((group) => group !== "0");
  const runs = groups.map((_, from) => (zeros(from) < 0 ? 8 - from : zeros(from)));
  const longest = Math.max(...runs);
  if (longest < 2) return groups.join(":");
  const from = runs.indexOf(longest);
  return `${groups.slice(0, from).join(":")}::${groups.slice(from + longest).join(":")}`;
}

/** A prefix in canonical form, with host bits cleared; undefined for anything but a prefix with a length. */
export function canonical(text: string): string | undefined {
  const found = text.includes("/") ? net(text) : undefined;
  return found && `${written(found.bits, found.first)}/${Number(text.split("/")[1])}`;
}

/** Whether host bits are set. */
export function hasHostBits(text: string): boolean {
  const [head = ""] = text.split("/");
  return net(text)?.first !== address(head)?.value;
}

/** The difference of two sets of networks, as the fewest prefixes, sorted. */
export function difference(some: string[], others: string[]): string[] {
  const known = (list: string[]) => list.flatMap((text) => net(text) ?? []);
  let left = known(some);
  for (const taken of known(others)) {
    left = left.flatMap((it) => {
      if (it.bits !== taken.bits || it.last < taken.first || taken.last < it.first) return [it];
      return [{ ...it, last: taken.first - 1n }, { ...it, first: taken.last + 1n }].filter(({ first, last }) => first <= last);
    });
  }
  left.sort((one, other) => one.bits - other.bits || (one.first < other.first ? -1 : 1));
  return left.flatMap(prefixes);
}

/** The prefixes that make up a range of addresses. */
function prefixes({ bits, first, last }: Net): string[] {
  const found: string[] = [];
  for (let from = first; from <= last;) {
    let host = 0n;
    while (host < BigInt(bits) && (from >> host) % 2n === 0n && from + (1n << (host + 1n)) - 1n <= last) host++;
    found.push(`${written(bits, from)}/${BigInt(bits) - host}`);
    from += 1n << host;
  }
  return found;
}
