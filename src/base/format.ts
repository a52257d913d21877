/** Shares, times, sizes and tables as people read them, and sizes as people write them. */

/** `none` stands for what is not known. */
export const percent = (share: number | null | undefined, none = '-'): string =>
  share == null ? none : `${(100 * share).toFixed(2)} %`;

/** Returns `61.20 % ± 0.35`, a mean with the standard deviation over several seeds. */
export function formatMean(of: { mean: number; spread: number | null } | null, none = '-'): string {
  const spread = of === null || of.spread === null ? '' : ` ± ${(100 * of.spread).toFixed(2)}`;
  return `${percent(of?.mean, none)}${spread}`;
}

/** Returns a setting in few digits; one that a point does not set has the value of the base. */
export function formatValue(value: unknown, none = '-'): string {
  if (value === undefined) return none;
  return typeof value === 'number' ? String(Number(value.toPrecision(4))) : String(value);
}

export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?';
  const total = Math.round(seconds);
  const parts = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  return parts.map((part) => String(part).padStart(2, '0')).join(':');
}

/** Returns a place in a video: `1:02:03.4`, below an hour `2:03.4`. */
export function formatPlace(seconds: number): string {
  const tenths = Math.round(seconds * 10);
  const [hours, minutes] = [Math.floor(tenths / 36_000), Math.floor(tenths / 600) % 60];
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, '0');
  return hours === 0 ? `${minutes}:${rest}` : `${hours}:${String(minutes).padStart(2, '0')}:${rest}`;
}

export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  return `${(bytes / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`;
}

/** Returns rows as lines of left-aligned columns. */
export function formatTable(rows: string[][]): string {
  const widths = rows.reduce<number[]>((most, row) => row.map((cell, i) => Math.max(most[i] ?? 0, cell.length)), []);
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

const UNITS: Record<string, number> = { '': 1, B: 1, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };
for (const [power, unit] of ['KiB', 'MiB', 'GiB', 'TiB'].entries()) UNITS[unit] = 1024 ** (power + 1);
export const BYTES = /^(\d+(?:\.\d+)?) ?([KMGT]?i?B)$/;

/** Returns the bytes that `8GiB` or `500 MB` are, a plain number as it is, else undefined. */
export function parseBytes(size: string | number): number | undefined {
  if (typeof size === 'number') return size;
  const [, number, unit] = BYTES.exec(size) ?? [];
  const factor = UNITS[unit ?? '?'];
  return factor === undefined ? undefined : Math.round(Number(number) * factor);
}
