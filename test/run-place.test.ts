/** Places that can take no run, told before anything is written or loaded; and a disk that fills up on the way. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, jest, test } from '@jest/globals';
import { checkPlace, refuseForeignResults, refuseSmallDisk } from '../src/run/place.ts';
import { coldframe, type Ended, hashFiles, makeClips, readEvents, readJson, writeConfig } from './support.ts';
import { fill, mount, testOnDisk, tinyDisk, unmount } from './tiny-disk.ts';

jest.setTimeout(300_000);
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'run-place-test-')));
const disk = join(folder, 'disk');
let isMounted = false;
const mounted = (work: () => void): void => {
  work();
  isMounted = true;
};

afterEach(() => {
  if (isMounted) unmount(disk);
  isMounted = false;
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('a place is refused, and left as it is', () => {
  const mine = (dir: string, ...names: string[]): string => {
    mkdirSync(join(folder, dir), { recursive: true });
    for (const name of names) writeFileSync(join(folder, dir, name), 'mine');
    return join(folder, dir);
  };

  test('with files of the user’s own, also where one has a name of ours', () => {
    const thesis = mine('thesis', 'a.tex', 'b.tex', 'c.tex', 'd.tex');
    expect(() => checkPlace(thesis)).toThrow(
      `${thesis}  holds files that are no run's (a.tex, b.tex, c.tex, ...). Name a new or empty folder with --run-dir.`,
    );
    const model = mine('model', 'config.json', 'lock');
    expect(() => checkPlace(model)).toThrow(`${model}  holds files that are no run's (config.json).`);
  });

  test('by an evaluation, too, but for one of an evaluation', () => {
    const paper = mine('paper', 'notes.txt', 'result.json');
    expect(() => refuseForeignResults(paper)).toThrow(
      `${paper}  holds files that are no evaluation's (notes.txt). Name a new or empty folder with --output.`,
    );
    expect(() => refuseForeignResults(join(paper, 'notes.txt'))).toThrow(
      'notes.txt  is a file, and a folder is needed.',
    );
    expect(refuseForeignResults(mine('earlier', 'result.json', 'scores.npz'))).toBeUndefined();
    expect(refuseForeignResults(join(paper, 'new'))).toBeUndefined();
  });

  test('but not one that is empty, new, a run’s, a scheduler’s, or what a kill left at the start', () => {
    const fine = [mine('new disk', '.Trash-0'), join(folder, 'a', 'b'), mine('run', 'events.jsonl', 'notes.txt')];
    fine.push(mine('cohort', 'attempt.json', 'slurm.out'), mine('killed', 'lock', 'runtime.log'));
    fine.push(mine('killed ranks', 'runtime-rank-1.log', 'runtime-rank-12.log'));
    mkdirSync(join(folder, 'new disk', 'lost+found'));
    for (const dir of fine) expect(() => checkPlace(dir)).not.toThrow();
    expect(existsSync(join(folder, 'a'))).toBe(false);
  });

  test('that is a file, lies below one, or cannot be made', () => {
    const file = join(mine('files', 'file'), 'file');
    expect(() => checkPlace(file)).toThrow(`${file}  is a file, and a folder is needed.`);
    expect(() => checkPlace(join(file, 'a', 'b'))).toThrow(`${file}/a/b  lies below the file ${file}, and a folder is`);
  });

  testOnDisk('on a read-only disk, or one that is smaller than a checkpoint', () => {
    mounted(() => tinyDisk(disk, '64k'));
    expect(() => refuseSmallDisk(join(disk, 'run'), 5000, false)).not.toThrow();
    // A weight and two moments of four bytes each, and the running mean.
    expect(() => refuseSmallDisk(join(disk, 'run'), 5000, true)).toThrow(
      `${disk}/run  the disk has 64.0 KiB free, and one checkpoint takes 78.1 KiB. Free some room there, or name another`,
    );
    mount(disk, '-o', 'remount,ro');
    expect(() => checkPlace(join(disk, 'run'))).toThrow(`${disk}  lies on a read-only file system. Name a place that`);
  });
});

describe('the program', () => {
  const config = writeConfig(folder);
  const train = (...more: string[]): Promise<Ended> => coldframe(['train', '--config', config, ...more]);

  /** A message alone, which names the place, and exit code 2. */
  const expectTold = ({ code, stderr }: Ended, message: string): void => {
    expect(stderr).toContain(message);
    expect(stderr).not.toMatch(/^ +at |Traceback|bug in coldframe/m);
    expect(code).toBe(2);
  };

  test('says so, trained or only planned', async () => {
    await makeClips();
    writeFileSync(join(folder, 'plain'), 'mine');
    const below = join(folder, 'plain', 'run');
    expectTold(await train('--run-dir', below), `${below}  lies below the file ${join(folder, 'plain')}`);
    expectTold(await train('--run-dir', below, '--dry-run'), `${below}  lies below the file`);
    expectTold(await train('--run-dir', '/proc/nope'), '/proc/nope  does not exist, or cannot be made there.');
    expect(readFileSync(join(folder, 'plain'), 'utf8')).toBe('mine');
  });

  testOnDisk('ends on a full disk with a message, keeps what was saved, and goes on when there is room', async () => {
    mounted(() => tinyDisk(disk, '8m')); // room for one checkpoint
    const [run, filler] = [join(disk, 'run'), join(disk, 'filler')];
    const go = (): Promise<Ended> => train('--run-dir', run, '--set', 'data.num_workers=0', '--set', 'eval.every=null');
    expectTold(await go(), `${run}/checkpoints/step-4  cannot be written: `);
    expect(readdirSync(join(run, 'checkpoints')).sort()).toEqual(['latest', 'step-2']);
    expect(readJson(run, 'status.json')).toMatchObject({ state: 'failed', step: 4, class: 'user' });
    fill(filler);
    const before = hashFiles(join(run, 'checkpoints'));
    expectTold(await go(), `${run}/lists/new/train.tsv  the disk is full. Free some room there; the same command goes`);
    expect(hashFiles(join(run, 'checkpoints'))).toEqual(before);
    rmSync(filler);
    mount(disk, '-o', 'remount,size=64m');
    const again = await go();
    expect([again.code, again.stderr]).toEqual([0, expect.not.stringContaining('full')]);
    expect(readEvents(run).filter(({ kind }) => kind === 'saved')).toHaveLength(4); // and every line is whole
    expect(readJson(run, 'status.json')).toMatchObject({ state: 'finished', step: 8 });
  });
});
