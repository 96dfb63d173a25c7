// Tables as files that spreadsheets read.

/** The characters that begin a formula in spreadsheets, also in full width. */
const FORMULA = /^[=+\-@＝＋－＠\t\r\n]/;

/** A cell. Texts are always quoted; what would be a formula is made text. */
function cell(value: string | number | null): string {
  if (typeof value === "number") return String(value);
  const text = value ?? "";
  return `"${(FORMULA.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
}

/** RFC 4180, with a byte order mark, by which spreadsheets recognise UTF-8. */
export const csv = (rows: (string | number | null)[][]) => `\ufeff${rows.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;

/** Offers a file for download. */
export function save(name: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // Not before the browser has begun to read it.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
