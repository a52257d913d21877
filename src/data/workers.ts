/** Loader workers: more than there are processors would only take turns, and memory. */
import { countCores, shareCores } from '../base/process/processes.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/schema.ts';

/** Returns what is to be said where fewer workers decode than data.num_workers asks for, here or in one of the slots. */
export function describeWorkers({ data }: Pick<Config, 'data'>, slots = 1): string | undefined {
  const [wanted, cores] = [data.num_workers, shareCores(slots)];
  if (wanted <= cores || data.features !== null) return undefined;
  const where =
    slots === 1
      ? `this machine has ${plural(cores, 'core')}`
      : `each of ${slots} slots has ${cores} of ${plural(countCores(), 'core')}`;
  return `data.num_workers  ${wanted} are asked for, and ${where}: ${cores === 1 ? '1 decodes' : `${cores} decode`}. The clips are the same.`;
}
