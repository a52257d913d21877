/** Sizes of memory as people write them. */

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
