export default {
  testEnvironment: 'node',
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/test/heavy/'], // they need clusters: make test-slurm test-ray
  testSequencer: '<rootDir>/test/order.mjs',
  setupFiles: ['<rootDir>/test/plain.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  transform: {
    '\\.ts$': ['@swc/jest', { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { type: 'es6' } }],
  },
  // Real interpreters and real video behind most tests: two cores, one file of tests at a time on each.
  maxWorkers: 2,
  testTimeout: 120_000,
};
