/** What keeps the numbers of a report from being what they seem, and what was chosen on which list: plain sentences. */

import { showPath } from '../../base/errors.ts';
import { METRICS, mainMetric } from '../../base/intervals.ts';
import { getAt } from '../../base/objects.ts';
import { plural } from '../../base/words.ts';
import { isChosenOn } from '../../run/evaluation.ts';
import type { Source } from './source.ts';

const shaOf = (source: Source, which: 'train' | 'val'): unknown => getAt(source.environment, `lists.${which}.sha256`);

/** Returns what is wrong with the numbers, the worst first. */
export function listWarnings(source: Source): string[] {
  const { evaluation, config, sweep } = source;
  const { list, result } = evaluation;
  const isTrained = list !== null && list.sha256 === shaOf(source, 'train');
  const isChosen = sweep?.sweep.selection === 'validation';
  const bad = result.num_bad ?? 0;
  return [
    config.data.dummy ? 'It was trained on noise (data.dummy: true): no number here means anything.' : '',
    isTrained ? 'These are the videos that it was trained on: the numbers say nothing of new ones.' : '',
    isChosen
      ? 'The sweep chose its winner on this list (selection: validation), so the numbers are too high for it. Only a list that nothing was chosen on can say how good it is.'
      : '',
    isHandPicked(source) ? describePicked(source) : '',
    bad > 0 ? `${plural(bad, 'video')} of the list could not be read; no number here counts them.` : '',
  ].filter((text) => text !== '');
}

/** A step before the last that is the best on this very list is likely to have been picked for that. */
function isHandPicked(source: Source): boolean {
  const { evaluation } = source;
  const last = source.evaluations.filter(isOwn).at(-1);
  return last !== undefined && evaluation.step < last.step;
}

const isOwn = ({ name }: { name: string }): boolean => /^step-\d+$/.test(name);

function describePicked(source: Source): string {
  const { run, trial, evaluation, evaluations } = source;
  const { step, list } = evaluation;
  if (isChosenOn(run, trial, step, list))
    return `Step ${step} was chosen by what it finds on this very list (run.keep_best): its numbers are too high. Only a list that nothing was chosen on can say how good it is.`;
  const last = evaluations.filter(isOwn).at(-1);
  return `Step ${step} is not the last of the training, which is ${last?.step}: where it was chosen by its result on this list, that result is too high.`;
}

/** Returns what was chosen on which list, as far as the run knows. */
export function describeChoice(source: Source): string {
  const { evaluation, evaluations, sweep } = source;
  const metric = METRICS[mainMetric(evaluation.result)];
  if (sweep !== null && evaluation.name === 'final') {
    const { selection_list: chosenOn, selection } = sweep.sweep;
    return selection === 'validation'
      ? `The point was chosen by its ${metric} on this list.`
      : `The point was chosen on another list, ${showPath(chosenOn ?? 'of selection')}; this one was used once, for this evaluation.`;
  }
  const own = evaluations.filter((one) => isOwn(one) && one.list?.sha256 === evaluation.list?.sha256);
  const isLast = !isHandPicked(source);
  const seen =
    own.length > 1
      ? ` The training was evaluated ${own.length} times on this list: whoever stops it, or sets its keys, by these results chooses on the list, and needs another one for a last word.`
      : '';
  return `${isLast ? `Step ${evaluation.step} is the last that was evaluated: no step was chosen.` : ''}${seen}`.trim();
}
