/** The GPUs of this machine, as CUDA would number them, without asking PyTorch, which takes seconds to load. */

import { readdirSync } from 'node:fs';

/** Returns the CUDA devices that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them. */
export function findDevices(
  visible: string | undefined = process.env.CUDA_VISIBLE_DEVICES,
  files: string[] = readdirSync('/dev'),
): string[] {
  const numbers = files.flatMap((name) => /^nvidia(\d+)$/.exec(name)?.[1] ?? []);
  if (visible === undefined) return numbers.sort((a, b) => Number(a) - Number(b));
  const names = visible.split(',').map((name) => name.trim());
  // CUDA takes what stands before the first name that is none, or a number that no device has. Some drivers show no file.
  const isThere = (name: string): boolean =>
    /^\d+$/.test(name) ? numbers.length === 0 || Number(name) < numbers.length : /^(GPU|MIG)-/.test(name);
  const first = names.findIndex((name) => !isThere(name));
  return first < 0 ? names : names.slice(0, first);
}
