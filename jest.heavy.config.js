import base from './jest.config.js';

/** Tests on real clusters, which `make test-slurm` and `make test-ray` bring up, of a server under load (`make test-load`) and of long builds (`make test-parts`). */
export default {
  ...base,
  testMatch: ['<rootDir>/test/heavy/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/'],
  maxWorkers: 1,
};
