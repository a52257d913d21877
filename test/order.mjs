/** The order of the files of tests where jest has no times of an earlier run: the long ones first, so that two cores end together. */
import { createRequire } from 'node:module';
import { basename } from 'node:path';

const { default: Sequencer } = createRequire(import.meta.url)('@jest/test-sequencer'); // jest's own

const LONG = [
  ...['train', 'cohort', 'features', 'prepare', 'predict', 'checkpoints', 'sweep', 'scheduler', 'stored'],
  ...['transports', 'ranks', 'runtime', 'main', 'weights', 'fit', 'bench', 'signals', 'memory-kill', 'executors', 'inputs', 'extend'],
];

export default class extends Sequencer {
  time(test) {
    const place = LONG.indexOf(basename(test.path).replace(/\.test\.ts$/, ''));
    return super.time(test) ?? (place < 0 ? 0 : LONG.length - place);
  }
}
