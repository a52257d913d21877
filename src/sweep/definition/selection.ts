/** The list that a sweep chooses on: never the training list, and the validation list only where the file says so. */

import { createHash } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import { explainReadError, showPath } from '../../base/errors.ts';
import type { Config } from '../../config/schema.ts';
import type { SweepDraft } from './schema.ts';
import type { Sweep } from './types.ts';

export type Selection = Pick<Sweep, 'selection' | 'selection_list' | 'selection_root'>;

/** What two lists are compared by. */
interface List {
  file: string;
  path: string;
  sha256: string;
}

/** Returns what to choose on. Tells `fail` what is not allowed; clips that two lists share are told later (../checks.ts). */
export function checkSelection(
  draft: SweepDraft,
  { data }: Config,
  fail: (key: string, text: string) => void,
): Selection {
  const { selection, selection_list: given } = draft;
  const ofValidation = { selection, selection_list: data.val_list, selection_root: data.val_root };
  const chosen: Selection = { selection, selection_list: given, selection_root: draft.selection_root ?? data.root };
  if (given === null) {
    if (selection === 'validation' || data.dummy) return ofValidation;
    fail(
      'selection_list',
      'not set. Give a list that is neither the training nor the validation list, or say selection: validation.',
    );
    return chosen;
  }
  const list = readList(given, (text) => fail('selection_list', text));
  if (list === null) return chosen;
  const validation = readList(data.val_list);
  if (selection === 'validation') {
    if (validation === null || isSame(list, validation)) return ofValidation;
    fail(
      'selection',
      `found validation, but selection_list is not ${showPath(validation.file)}. Remove one of the two.`,
    );
    return chosen;
  }
  const others = [
    ['training', readList(data.train_list)],
    ['validation', validation],
  ] as const;
  for (const [name, other] of others) {
    if (other !== null && isSame(list, other)) fail('selection_list', explainSame(list, other, name));
  }
  return chosen;
}

/** Lists that cannot be read are told by who checks lists; only the selection list has no other reader before the start. */
function readList(file: string | null, fail: (text: string) => void = () => {}): List | null {
  if (file === null) return null;
  try {
    const bytes = readFileSync(file);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    return { file, path: realpathSync(file), sha256 };
  } catch (error) {
    fail(explainReadError(error, file, 'a list of `<path> <label>` lines'));
    return null;
  }
}

const isSame = (one: List, other: List): boolean => one.sha256 === other.sha256;

function explainSame(list: List, other: List, name: 'training' | 'validation'): string {
  const how = list.path === other.path ? 'is' : 'has the same content as';
  const advice = name === 'validation' ? ', or say selection: validation, which the report then repeats' : '';
  return `${showPath(list.file)} ${how} the ${name} list ${showPath(other.file)}. Give another one${advice}.`;
}
