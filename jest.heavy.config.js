import base from './jest.config.js';

/** Tests on real clusters, which `make test-slurm` and `make test-ray` bring up, and of a server under load (`make test-load`). */
export default {
  ...base,
  testMatch: ['<rootDir>/test/heavy/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/'],
  maxWorkers: 1,
};
