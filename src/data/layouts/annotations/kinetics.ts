/** Kinetics: CSV files with `label,youtube_id,time_start,time_end,split`, and videos under the names that downloads give. */

import { basename } from 'node:path';
import { showPath, UserError } from '../../../base/errors.ts';
import { plural, quote } from '../../../base/words.ts';
import { type LaidOut, type Layout, type LeftOut, readSide, SIDE_WORDS, type Side } from '../layout.ts';
import { type Columns, type Row, readTable } from '../table.ts';
import { Videos } from './videos.ts';

const COLUMNS: Columns = {
  label: ['label', 'labels', 'class'],
  id: ['youtube_id', 'id', 'video_id'],
  start: ['time_start', 'start'],
  end: ['time_end', 'end'],
  split: ['split', 'subset'],
};

/** Returns the clips of which there is a video; the others are left out by name. Raises UserError with every bad row. */
export function readKinetics(files: string[], folder: string): Layout {
  const videos = new Videos(folder);
  const clips: LaidOut[] = [];
  const leftOut: LeftOut[] = [];
  const problems: string[] = [];
  let numWhole = 0;
  for (const file of files) {
    const ofFile = readSide(
      basename(file)
        .replace(/(\.csv)+$/i, '')
        .replace(/^.*[_-]/, ''),
    );
    const { rows } = readTable(file, COLUMNS, ['id']);
    for (const row of rows) {
      const place = { list: file, line: row.line };
      const side = readSplit(row, file, ofFile, problems);
      const [id, label] = [row.get('id').trim(), row.get('label').trim()];
      const named = nameClip(row);
      if (label === '') {
        leftOut.push({ code: 'unused', path: id, ...place, message: 'has no label.' });
        continue;
      }
      const found = videos.find([...named, id, `v_${id}`], foldersOf(label));
      if (found === undefined) leftOut.push(videos.leaveMissing(named[0] ?? id, place));
      else clips.push({ path: found, class: label, group: id, ...place, ...(side && { side }) });
      if (found !== undefined && !named.some((name) => basename(found).startsWith(name))) numWhole += 1;
    }
  }
  if (problems.length > 0) throw new UserError(problems);
  const whole = `${plural(numWhole, 'clip')} under the name of the video alone, without times: each is taken for the clip itself.`;
  return { root: videos.root, clips, leftOut, notes: [...videos.describe(), ...(numWhole > 0 ? [whole] : [])] };
}

function readSplit(row: Row, file: string, ofFile: Side | undefined, problems: string[]): Side | undefined {
  const word = row.get('split').trim();
  if (word === '') return ofFile;
  const side = readSide(word);
  if (side === undefined)
    problems.push(`${showPath(file)}:${row.line}  split ${quote(word)} is not known. Allowed: ${SIDE_WORDS}.`);
  return side;
}

/** `ID_000010_000020` as the official crawler has it, and `ID_10_20`. */
function nameClip(row: Row): string[] {
  const [id, start, end] = ['id', 'start', 'end'].map((column) => row.get(column).trim());
  if (start === '' || end === '') return [];
  const times = [start, end].map((time) => Math.trunc(Number(time)));
  if (times.some(Number.isNaN)) return [];
  return [
    [id, ...times.map((time) => String(time).padStart(6, '0'))].join('_'),
    [id, ...times].join('_'),
    [id, start, end].join('_'),
  ];
}

const foldersOf = (label: string): string[] => [label, label.replaceAll(' ', '_'), label.replace(/[^\w-]+/g, '_')];
