/** The names of the bench programs: apart from the rest of `bench`, as the help lists them. */

/** The programs of `bench`. */
export const BENCHES = [
  ...(['loader', 'step', 'cohort', 'features', 'list', 'bridge', 'memory', 'startup', 'sweep', 'scaling'] as const),
] as const;
