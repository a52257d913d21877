/** Loader workers: more than there are processors would only take turns, and memory. */
import { countCores, shareCores } from '../base/process/processes.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/schema.ts';

/** Returns what is to be said where fewer workers decode than data.num_workers asks for, here or in one of the slots. */
export function describeWorkers({ data, launch }: Pick<Config, 'data' | 'launch'>, slots = 1): string | undefined {
  const [wanted, cores] = [data.num_workers, shareCores(slots * launch.devices)];
  if (wanted <= cores || data.features !== null) return undefined;
  const all = plural(countCores(), 'core');
  const slot = slots === 1 ? '' : ` in each of ${slots} slots`;
  const where =
    launch.devices > 1
      ? `each of ${launch.devices} processes${slot} has ${cores} of ${all}`
      : slots > 1
        ? `each of ${slots} slots has ${cores} of ${all}`
        : `this machine has ${all}`;
  return `data.num_workers  ${wanted} are asked for, and ${where}: ${cores === 1 ? '1 decodes' : `${cores} decode`}. The clips are the same.`;
}
