/** What `predict` is given, before any of it is decoded, and the files that it writes. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import type { EventOf } from '../src/base/events/event.ts';
import { PredictionFile } from '../src/inference/prediction/prediction-file.ts';
import { findVideos } from '../src/inference/prediction/videos.ts';
import { useOwnFolder } from './own-folder.ts';

const { folder, at } = useOwnFolder('predict-inputs-');
const VIDEO = '\0\0\0\x18ftypmp42';

const notes: string[] = [];
const find = async (names: string[], root: string | null = null): Promise<string[]> => {
  notes.length = 0;
  const videos = await findVideos(names, { root, note: (text) => notes.push(text) });
  return videos.map(({ name, part }) => name.replace(`${folder}/`, '') + (part === null ? '' : ' (part)'));
};
const write = (...names: string[]): void => {
  mkdirSync(at('a', 'b'), { recursive: true });
  for (const name of names) writeFileSync(at(name), VIDEO);
};

describe('a list', () => {
  test('may have labels, and names that end as a label does', async () => {
    write('a/x.mp4', 'a/y 1', 'a/#z.mp4');
    writeFileSync(at('a', 'list'), '# labels of 8 classes\n\n x.mp4 3\nx.mp4\ny 1\ny 1 2,5\n#z.mp4\ngone.mp4 -\n');
    writeFileSync(at('a', 'list'), readFileSync(at('a', 'list'), 'utf8').replace(' x', 'x'));
    expect(await find([at('a', 'list')])).toEqual(['a/x.mp4', 'a/x.mp4', 'a/y 1', 'a/y 1', 'a/#z.mp4', 'a/gone.mp4']);
  });

  test('begins beside itself, else at data.root, else here; a path of a list that says so has no label', async () => {
    write('a/x.mp4');
    writeFileSync(at('list.txt'), '# columns: path label\nx.mp4 1\ngone.mp4 2\n');
    expect(await find([at('list.txt')], at('a'))).toEqual(['a/x.mp4', 'a/gone.mp4']);
    write('x.mp4');
    expect(await find([at('list.txt')], at('a'))).toEqual(['x.mp4', 'gone.mp4']);
    await expect(find([at('a', 'b', '..', '..', 'list.txt')], null)).resolves.toHaveLength(2);
  });

  test('holds parts below its header', async () => {
    write('a/x.mp4');
    writeFileSync(at('parts.txt'), '# columns: path label start end\na/x.mp4 0 1 2.5\n');
    expect(await find([at('parts.txt')])).toEqual(['a/x.mp4#t=1,2.5 (part)']);
  });

  test.each([
    ['nothing', '', /list\.txt {2}is empty\./],
    [
      'other text',
      'Dear all,\nsee below\n',
      /list\.txt {2}is text, and none of its lines names a video, ".*Dear all,"/,
    ],
    ['parts without times', '# columns: path label start end\nx.mp4 0\n', /"x\.mp4 0" {2}has not all four columns/],
  ])('of %s is refused', async (_what, content, message) => {
    writeFileSync(at('list.txt'), content === '' ? ' \n' : content);
    await expect(find([at('list.txt')])).rejects.toMatchObject({
      name: 'UserError',
      message: expect.stringMatching(message),
    });
  });
});

describe('a pattern', () => {
  test('goes through folders with **, and takes what is a video by its name or its first bytes', async () => {
    write('a/x.mp4', 'a/b/y.mkv', 'a/b/odd');
    writeFileSync(at('a', 'b', 'notes.txt'), 'text');
    expect(await find([at('a', '**', '*')])).toEqual(['a/b/odd', 'a/b/y.mkv', 'a/x.mp4']);
    expect(notes).toEqual([expect.stringContaining('1 file left out that are no videos')]);
    expect(await find([at('a', '*.{mp4,avi}')])).toEqual(['a/x.mp4']);
  });

  test('is a name where a file is called so', async () => {
    write('a/[1].mp4', 'a/1.mp4');
    expect(await find([at('a', '[1].mp4')])).toEqual(['a/[1].mp4']);
    expect(await find([`${at('a', '[1].mp4')}#t=0,1`])).toEqual(['a/[1].mp4#t=0,1 (part)']);
    expect(await find([at('a', '[12].mp4')])).toEqual(['a/1.mp4']);
  });
});

test('a folder without a video, and a pattern that meets none, are told together', async () => {
  write('a/x.txt');
  writeFileSync(at('a', 'x.txt'), 'text');
  const problems = [
    `${at('a', 'b')}  holds no video among its 0 files.`,
    `${at('a', '*.mp4')}  no file has such a name.`,
    `${at('a', '*')}  is the name of 1 file, and none of them is a video.`,
  ];
  await expect(find([at('a', 'b'), at('a', '*.mp4'), at('a', '*')])).rejects.toMatchObject({ problems });
});

test('an address and a pipe are streams; a file that is called as an address is a file', async () => {
  execFileSync('mkfifo', [at('pipe')]);
  const found = await findVideos(['rtsp://camera/1', at('pipe')], { root: null, note: () => {} });
  expect(found).toMatchObject([
    { path: 'rtsp://camera/1', isStream: true },
    { path: at('pipe'), isStream: true },
  ]);
  mkdirSync(at('http:', 'a'), { recursive: true });
  writeFileSync(at('http:', 'a', 'x.mp4'), VIDEO);
  const here = process.cwd();
  try {
    process.chdir(folder);
    const [file] = await findVideos(['http://a/x.mp4'], { root: null, note: () => {} });
    expect(file).toMatchObject({ isStream: false, path: at('http:', 'a', 'x.mp4') });
  } finally {
    process.chdir(here);
  }
});

describe('--output', () => {
  const classes = [{ label: 3, name: 'a "quoted", name', probability: 0.75 }];
  const found: EventOf<'predicted'>[] = [
    { kind: 'predicted', path: 'x.mp4', classes },
    { kind: 'predicted', path: 'y.mp4', error: 'is empty (0 bytes)' },
  ];
  const save = (name: string): string => {
    const file = new PredictionFile(at(name));
    for (const one of found) file.add(one);
    expect(readdirSync(folder)).toEqual([expect.stringMatching(/\.partial$/)]); // nothing is there before it is whole
    file.close();
    expect(readdirSync(folder)).toEqual([name]);
    return readFileSync(at(name), 'utf8');
  };
  const objects = [
    { path: 'x.mp4', classes },
    { path: 'y.mp4', error: 'is empty (0 bytes)' },
  ];

  test('is JSON', () => expect(JSON.parse(save('all.json'))).toEqual(objects));
  test('is lines of JSON', () =>
    expect(
      save('all.JSONL')
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line)),
    ).toEqual(objects));
  test('is a table', () =>
    expect(save('all.csv')).toBe(
      'path,start,end,rank,label,name,probability,error\nx.mp4,,,1,3,"a ""quoted"", name",0.75,\ny.mp4,,,,,,,is empty (0 bytes)\n',
    ));

  test('of nothing leaves an older file as it is', () => {
    writeFileSync(at('all.json'), 'older');
    new PredictionFile(at('all.json')).close();
    expect(readdirSync(folder)).toEqual(['all.json']);
    expect(readFileSync(at('all.json'), 'utf8')).toBe('older');
  });

  test.each([
    ['all.xml', /all\.xml\. Allowed: a file that ends with \.jsonl, \.json, \.csv\./],
    ['folder.csv', /folder\.csv is there, and is no file/],
  ])('%s is refused', (name, message) => {
    mkdirSync(at('folder.csv'));
    expect(() => new PredictionFile(at(name))).toThrow(message);
  });
});
