/** What a run goes on from: the run itself asks, and a dry run tells. */

import { realpathSync } from 'node:fs';
import { showPath, UserError } from '../base/errors.ts';
import { refuseChangedConfig, refuseOtherCheckpoint } from '../run/changes.ts';
import type { CohortFile } from '../run/cohort-types.ts';
import { findCheckpoint, isUpstreamFile, type RunFolder, readCheckpoint } from '../run/folder.ts';

/** Returns `auto`, `never`, or the whole path of a checkpoint. Throws UserError where the run may not go on from it. */
export function checkResume(resume: string, folder: RunFolder, cohort: CohortFile): string {
  if (resume === 'never') return resume;
  if (resume === 'auto') {
    refuseChangedConfig(folder, cohort);
    return resume;
  }
  const checkpoint = findCheckpoint(resume);
  refuseOtherCheckpoint(resume, cohort);
  return checkpoint;
}

/**
 * Asks again once nobody else may write there: while it waited, for other machines perhaps, another run may have come and gone.
 * Throws UserError.
 */
export function checkStillSo(resume: string, folder: RunFolder, cohort: CohortFile): void {
  if (resume === 'auto') refuseChangedConfig(folder, cohort);
  else if (resume === 'never' && folder.hasCheckpoint())
    throw new UserError(
      `${folder.dir}  another run has begun here meanwhile. Choose another --run-dir, or start again.`,
    );
}

export interface Onwards {
  checkpoint: string;
  /** null: the original's files are read by Python. */
  step: number | null;
}

/** Returns the checkpoint that a run would go on from, null where it would begin anew. */
export function findOnwards(resume: string, folder: RunFolder): Onwards | null {
  if (resume === 'never' || (resume === 'auto' && !folder.hasCheckpoint())) return null;
  if (isUpstreamFile(resume)) return { checkpoint: resume, step: null };
  const { folder: checkpoint, header } = readCheckpoint(resume === 'auto' ? folder.dir : resume);
  return { checkpoint: realpathSync(checkpoint), step: header.step }; // `latest` is a link
}

export function describeOnwards(onwards: Onwards | null, folder: RunFolder, steps: number): string {
  if (onwards === null) {
    const aside = folder.hasCheckpoint() ? `; the run in ${showPath(folder.dir)} is kept aside` : '';
    return `begins anew${aside}`;
  }
  const { checkpoint, step } = onwards;
  if (step === null) return `goes on from ${showPath(checkpoint)}`;
  const left = step >= steps ? ': nothing is left to train' : '';
  return `goes on at step ${step} of ${steps} from ${showPath(checkpoint)}${left}`;
}
