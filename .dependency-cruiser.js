/** Which room may import which: arrows point downwards only, types and lazy imports included. `make lint` holds it. */

/** The rooms of src/, highest first. Those of one line do not know each other. */
const LAYERS = [
  ['cli.ts'],
  ['main.ts'],
  ['commands'],
  ['results'],
  ['sweep'],
  ['train', 'inference', 'caches', 'weights', 'tools'],
  ['run'],
  ['executors'],
  ['data'],
  ['runtime'],
  ['config'],
  ['base'],
];

const anyOf = (rooms) => `^src/(${rooms.join('|').replaceAll('.', '\\.')})(/|$)`;

const downwards = LAYERS.flatMap((layer, depth) =>
  layer.map((room) => ({
    name: `${room} imports what stands below it`,
    severity: 'error',
    from: { path: anyOf([room]) },
    to: { path: '^src/', pathNot: anyOf([room, ...LAYERS.slice(depth + 1).flat()]) },
  })),
);

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    ...downwards,
    {
      name: 'a sweep knows of training how a rung is decided, and nothing else',
      severity: 'error',
      from: { path: '^src/(sweep|results)/' },
      to: { path: '^src/train/', pathNot: '^src/train/bracket\\.ts$' },
    },
    {
      name: 'one file starts Python',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/runtime/transports/embedded\\.ts$' },
      to: { path: 'pythonia' },
    },
    { name: 'no circle', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'every file is used',
      severity: 'error',
      from: { orphan: true, path: '^src/', pathNot: '^src/(results/report-page|inference/server/page)/' },
      to: {},
    },
  ],
  options: { parser: 'swc', tsPreCompilationDeps: true, doNotFollow: { path: 'node_modules' } },
};
