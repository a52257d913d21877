/** Lists from tables, from the annotations of data sets, and from labelling tools. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { csvFormatRows, dsvFormat } from 'd3-dsv';
import fc from 'fast-check';
import { Report } from '../src/base/printer.ts';
import { readCvat } from '../src/data/layouts/annotations/cvat.ts';
import { readKinetics } from '../src/data/layouts/annotations/kinetics.ts';
import { readLabelStudio } from '../src/data/layouts/annotations/label-studio.ts';
import { readHmdb51, readUcf101 } from '../src/data/layouts/annotations/official.ts';
import { readSsv2 } from '../src/data/layouts/annotations/ssv2.ts';
import type { Layout } from '../src/data/layouts/layout.ts';
import { readCsv, readJsonLines } from '../src/data/layouts/rows.ts';
import { writeLayout } from '../src/data/layouts/write.ts';
import { useOwnFolder } from './own-folder.ts';
import { problemsOf } from './support.ts';

const { folder, at, said } = useOwnFolder('layouts-');

/** Writes files below the folder; those without a text are videos by their names. */
function make(files: Record<string, string>, videos: string[] = []): void {
  for (const [name, text] of [...Object.entries(files), ...videos.map((name) => [name, 'x'] as const)]) {
    mkdirSync(dirname(at(name)), { recursive: true });
    writeFileSync(at(name), text);
  }
}

/** Writes the lists; returns their texts, and the codes and paths of what was left out. */
function write(layout: Layout, names: string[], classes?: string): string[] {
  rmSync(at('out'), { recursive: true, force: true });
  writeLayout(layout, { output: at('out'), classes }, new Report());
  return names.map((name) => readFileSync(at('out', name), 'utf8'));
}
const leftOut = ({ leftOut: left }: Layout): string[] => left.map(({ code, path }) => `${code} ${path}`);

const rows = { file: at('clips.csv'), videos: folder, frameRate: undefined };
const readTable = (text: string, more: Partial<typeof rows> | { frameRate: number } = {}): Layout => {
  make({ 'clips.csv': text });
  return readCsv({ ...rows, ...more });
};

describe('tables', () => {
  test('columns in any order, under their usual names, and any separator', () => {
    const wanted = ['b.mp4 1\na, b.mp4 0\n', 'jump\nrun\n'];
    for (const text of [
      'Label,frames,PATH\r\nrun,7,b.mp4\r\njump,8,"a, b.mp4"\r\n',
      '\ufeffclass;file name\n"run";b.mp4\njump;a, b.mp4\n\n',
      'video\tcategory\nb.mp4\trun\na, b.mp4\tjump',
    ])
      expect(write(readTable(text), ['all.txt', 'classes.txt'])).toEqual(wanted);
  });

  test('times: seconds, clock times, a decimal comma among semicolons', () => {
    const head = '# columns: path label start end\n';
    const [seconds] = write(readTable('path,label,start,end\na b.mp4,0,1.5,0:01:02.25\na b.mp4,1,70,1e2\n'), [
      'all.txt',
    ]);
    expect(seconds).toBe(`${head}a b.mp4 0 1.5 62.25\na b.mp4 1 70 100\n`);
    expect(write(readTable('path;label;end;start\na.mp4;0;2,5;0\n'), ['all.txt'])).toEqual([`${head}a.mp4 0 0 2.5\n`]);
  });

  test('frames where the columns say so: the last one is of the part', () => {
    const frames = 'path,label,start_frame,end_frame\na.mp4,0,25,49\n';
    expect(write(readTable(frames, { frameRate: 25 }), ['all.txt'])[0]).toContain('a.mp4 0 1 2\n');
    expect(problemsOf(() => readTable(frames))).toEqual([
      expect.stringContaining('Give --frame-rate, or a column fps'),
    ]);
    const own = 'path,label,start_frame,end_frame,fps\na.mp4,0,30,59,30\n';
    expect(write(readTable(own), ['all.txt'])[0]).toContain('a.mp4 0 1 2\n');
  });

  test('a split makes the lists, a group a table for `lists split`', () => {
    const text = 'path,label,split,group\na.mp4,x,train,s1\nb.mp4,x,Validation,s2\nc.mp4,y,TEST,s3\n';
    expect(write(readTable(text), ['train.txt', 'val.txt', 'test.txt'])).toEqual([
      'a.mp4 0\n',
      'b.mp4 0\n',
      'c.mp4 1\n',
    ]);
    const [groups] = write(readTable('path,label,group\n"a,b.mp4",x,"s ""1"""\nc.mp4,x,s2\n'), ['groups.csv']);
    expect(groups).toBe('path,group\n"a,b.mp4","s ""1"""\nc.mp4,s2\n');
    expect(said.join('')).toMatch(/Next: coldframe lists split .*all\.txt --root .* --groups .*groups\.csv/);
  });

  test('one path with two labels is left out by name; a name that no line can hold, too', () => {
    const layout = readTable('path,label\na.mp4,x\na.mp4,y\n"b\tc.mp4",x\nd.mp4,x\n');
    expect(write(layout, ['all.txt'])).toEqual(['d.mp4 0\n']);
    const left = readFileSync(at('out/left-out.tsv'), 'utf8');
    expect(left).toContain('a.mp4\tlabel-conflict\t');
    expect(left).toContain("mv -n -- $'");
    expect(left.trimEnd().split('\n')).toHaveLength(3);
  });

  test.each([
    ['no header', 'a.mp4,0\nb.mp4,1\n', [/:1 {2}no column path\. Found: "a.mp4", "0"/, /no column label/]],
    ['a misspelt one', 'pth,label\na,0\n', [/no column path\. Did you mean it by "pth"\?/]],
    ['one meaning twice', 'path,file,label\na,b,0\n', [/"path" and "file" both mean path/]],
    ['cells that lack', 'path,label\na.mp4,\n,1\n', [/:2 {2}"a.mp4" has no label/, /:3 {2}has no path/]],
    [
      'a quote that nothing closes',
      'path,label\n"a.mp4,0\nb.mp4,0\nc.mp4,1\n',
      [/:2 {2}a cell goes on over several lines/],
    ],
    [
      'times',
      'path,label,start,end\na,0,2,1\nb,0,-1,2\nc,0,1,\n',
      [/:2 .*not before/, /:3 .*start "-1"/, /:4 .*end ""/],
    ],
    ['a split', 'path,label,split\na,0,left\nb,0,\n', [/:2 {2}split "left" is not known\. Allowed: train, val/]],
    ['some splits', 'path,label,split\na,0,train\nb,0,\n', [/:3 {2}1 row without a split/]],
    ['no rows', 'path,label\n', [/has a header and no rows/]],
  ])('refused: %s', (_, text, messages) => {
    const problems = problemsOf(() => readTable(text));
    expect(problems).toEqual(messages.map((message) => expect.stringMatching(message)));
  });

  test('refused: other encodings, with the line', () => {
    for (const [text, message] of [
      [Buffer.from('\ufeffpath,label\n', 'utf16le'), /is in UTF-16\. Save it in UTF-8/],
      [Buffer.from('path,label\na.mp4,caf\xe9\n', 'latin1'), /:2 {2}is not valid UTF-8/],
    ] as const) {
      writeFileSync(at('clips.csv'), text);
      expect(problemsOf(() => readCsv(rows))).toEqual([expect.stringMatching(message)]);
    }
  });

  test('some with times and some without are refused when they meet in a list', () =>
    expect(problemsOf(() => write(readTable('path,label,start,end\na,0,1,2\nb,0,,\n'), []))).toEqual([
      expect.stringMatching(/:3 {2}b has no start and end, and .*:2 has/),
    ]));

  test('whatever the cells, each row comes back with its line or the file is refused', () => {
    const cell = fc.string({ unit: fc.constantFrom('a', 'ü', ' ', '"', ',', ';', '\n', '\t', '#', '7'), maxLength: 8 });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(cell, cell), { minLength: 1 }),
        fc.constantFrom(',', ';', '\t'),
        (pairs, separator) => {
          const filled = pairs.map(([path, label]) => [`p${path}`, `l${label}`]);
          make({ 'clips.csv': dsvFormat(separator).formatRows([['path', 'label'], ...filled]) });
          let clips: Layout['clips'] = [];
          const problems = problemsOf(() => {
            clips = readCsv(rows).clips;
          });
          const isLong = filled.flat().some((one) => one.split('\n').length > 2);
          expect(problems.length > 0).toBe(isLong);
          if (!isLong)
            expect(clips.map(({ path, class: name }) => [path, name])).toEqual(
              filled.map(([path = '', name = '']) => [/[\n\t]/.test(path) ? path : path.trim(), name.trim()]),
            );
        },
      ),
    );
  });

  test('JSON lines have the same keys', () => {
    make({
      'meta.jsonl':
        '{"file_name": "a.mp4", "label": 3, "start": 1, "end": 2.5}\n\n{"label": 0, "path": "b.mp4", "start": 0, "end": 1}\n',
    });
    const read = () => readJsonLines({ ...rows, file: at('meta.jsonl') });
    expect(write(read(), ['all.txt'])).toEqual(['# columns: path label start end\na.mp4 3 1 2.5\nb.mp4 0 0 1\n']);
    make({ 'meta.jsonl': '{"path": "a.mp4"}\n[1]\n{"path": \n' });
    const no = ':2  is no JSON object';
    expect(problemsOf(read)).toEqual([no, ':3', ':1  "a.mp4" has no label'].map((one) => expect.stringContaining(one)));
    make({ 'meta.jsonl': '{"url": "a.mp4", "label": "x"}\n' });
    expect(problemsOf(read)).toEqual([expect.stringContaining('no line has a key for the path')]);
  });
});

describe('data sets', () => {
  test('Kinetics: times in file names, class folders, whole videos; what is missing is named', () => {
    const head = 'label,youtube_id,time_start,time_end,split\n';
    make(
      {
        'train.csv': `${head}"ride, a bike",aaaaaaaaaaa,10,20,train\njump,-bbbbbbbbbb,0,10,train\njump,gone,3,13,train\n`,
        'val.csv': 'label,youtube_id,time_start,time_end\njump,ccccccccccc,5,15\njump,ddddddddddd,0,10\n',
        'test.csv': `youtube_id,time_start,time_end,split\neeeeeeeeeee,1,11,test\n`,
      },
      ['v/ride_a_bike/aaaaaaaaaaa_000010_000020.mp4', 'v/x/-bbbbbbbbbb_0_10.webm', 'v/ccccccccccc.mkv'].concat([
        ...['v/other/ddddddddddd_000000_000010.mp4', 'v/jump/ddddddddddd_000000_000010.mp4', 'v/spare.mp4'],
      ]),
    );
    const layout = readKinetics(
      ['train.csv', 'val.csv', 'test.csv'].map((name) => at(name)),
      at('v'),
    );
    expect(write(layout, ['train.txt', 'val.txt', 'classes.txt'])).toEqual([
      'ride_a_bike/aaaaaaaaaaa_000010_000020.mp4 1\nx/-bbbbbbbbbb_0_10.webm 0\n',
      'ccccccccccc.mkv 0\njump/ddddddddddd_000000_000010.mp4 0\n',
      'jump\nride, a bike\n',
    ]);
    expect(leftOut(layout)).toEqual(['missing gone_000003_000013', 'unused eeeeeeeeeee']);
    expect(layout.notes.join('\n')).toMatch(
      /2 videos that no annotation names(.|\n)*1 clip under the name of the video alone/,
    );
  });

  test('Something-Something v2: templates without their brackets, labels as in their file', () => {
    make(
      {
        'l/labels.json': '{"Pushing [something] left": "1", "Holding something next to something": "0"}',
        'l/train.json':
          '[{"id": "7", "template": "Pushing [something] left"}, {"id": "8", "template": "Holding [something] next to [something]"}]',
        'l/validation.json': '[{"id": "9", "label": "pushing a pen left", "template": "Pushing [something] left"}]',
        'l/test.json': '[{"id": "10"}, {"id": "11"}]',
        'l/test-answers.csv': '10;Pushing something left\n',
      },
      ['v/7.webm', 'v/9.webm', 'v/10.webm'],
    );
    const layout = readSsv2(at('l'), at('v'));
    const written = write(layout, ['train.txt', 'val.txt', 'test.txt', 'classes.txt']);
    expect(written).toEqual([
      '7.webm 1\n',
      '9.webm 1\n',
      '10.webm 1\n',
      'Holding something next to something\nPushing something left\n',
    ]);
    expect(leftOut(layout).sort()).toEqual(['missing 8', 'unused 11']);
    make({ 'l/train.json': '[{"id": 7, "template": "Pushing [thing] left"}]' });
    expect(problemsOf(() => readSsv2(at('l'), at('v')))).toEqual([
      expect.stringContaining('id 7: "Pushing thing left" has no label'),
    ]);
    make({ 'l/labels.json': '{"a": "1", "b": "2"}' });
    expect(problemsOf(() => readSsv2(at('l'), at('v')))).toEqual([expect.stringContaining('not 0 to 1, each once')]);
  });

  test('UCF101: its class index, three splits, and class folders whose case differs', () => {
    make(
      {
        'a/classInd.txt': '1 Archery\r\n2 HandstandPushups\r\n',
        'a/trainlist01.txt': 'Archery/v_Archery_g08_c01.avi 1\r\nHandStandPushups/v_HandStandPushups_g08_c01.avi 2\r\n',
        'a/testlist01.txt': 'HandStandPushups/v_HandStandPushups_g01_c01.avi\r\n',
        'a/trainlist02.txt': 'HandStandPushups/v_HandStandPushups_g01_c01.avi 2\n',
      },
      [
        'v/Archery/v_Archery_g08_c01.avi',
        'v/HandstandPushups/v_HandStandPushups_g08_c01.avi',
        'v/HandstandPushups/v_HandStandPushups_g01_c01.avi',
      ],
    );
    expect(write(readUcf101(at('a'), at('v')), ['train1.txt', 'val1.txt', 'train2.txt'])).toEqual([
      'Archery/v_Archery_g08_c01.avi 0\nHandstandPushups/v_HandStandPushups_g08_c01.avi 1\n',
      'HandstandPushups/v_HandStandPushups_g01_c01.avi 1\n',
      'HandstandPushups/v_HandStandPushups_g01_c01.avi 1\n',
    ]);
    make({ 'a/trainlist01.txt': 'Archery/v_Archery_g08_c01.avi 3\n' });
    expect(problemsOf(() => readUcf101(at('a'), at('v')))).toEqual([
      expect.stringMatching(/trainlist01\.txt:1 .*of no class/),
    ]);
  });

  test('HMDB51: 1 is training, 2 testing, 0 neither; names begin with # and hold semicolons', () => {
    make(
      {
        'a/brush_hair_test_split1.txt': '#20_brush_h.avi 1 \nb;c.avi 2 \nd.avi 0 \n',
        'a/clap_test_split1.txt': 'e f.avi 1 \ngone.avi 2 \n',
      },
      ['v/brush_hair/#20_brush_h.avi', 'v/brush_hair/b;c.avi', 'v/brush_hair/d.avi', 'v/clap/e f.avi'],
    );
    const layout = readHmdb51(at('a'), at('v'));
    expect(write(layout, ['train1.txt', 'val1.txt', 'classes.txt'])).toEqual([
      'brush_hair/#20_brush_h.avi 0\nclap/e f.avi 1\n',
      'brush_hair/b;c.avi 0\n',
      'brush_hair\nclap\n',
    ]);
    expect([leftOut(layout), layout.notes]).toEqual([
      ['missing gone.avi'],
      ['split 1: 1 clip of neither list (code 0).'],
    ]);
    make({ 'a/clap_test_split1.txt': 'e f.avi 3\n' });
    expect(problemsOf(() => readHmdb51(at('a'), at('v')))).toEqual([
      expect.stringMatching(/split1\.txt:1 {2}found "e f.avi 3"/),
    ]);
  });
});

describe('labelling tools', () => {
  const studio = (tasks: unknown, frameRate?: number): Layout => {
    make({ 'export.json': JSON.stringify(tasks) }, ['v/sub/a b.mp4', 'v/c.mp4', 'v/d.mp4']);
    return readLabelStudio({ file: at('export.json'), videos: at('v'), frameRate });
  };
  const task = (video: string, ...result: object[]) => ({ id: 1, data: { video }, annotations: [{ result }] });
  const choice = (...choices: string[]) => ({ type: 'choices', value: { choices } });

  test('Label Studio: choices, of uploads, local files and JSON-MIN', () => {
    const layout = studio([
      task('/data/local-files/?d=x/sub/a%20b.mp4', choice('jump')),
      { id: 2, video: '/data/upload/3/0a1b2c3d-c.mp4', choice: 'run' },
      task('s3://bucket/d.mp4', choice('jump'), choice('run')),
      task('/data/upload/gone.mp4', choice('run')),
    ]);
    expect(write(layout, ['all.txt', 'classes.txt'])).toEqual(['sub/a b.mp4 0\nc.mp4 1\n', 'jump\nrun\n']);
    expect(leftOut(layout)).toEqual(['label-conflict s3://bucket/d.mp4', 'missing /data/upload/gone.mp4']);
  });

  test('Label Studio: parts in seconds, and in frames with a rate', () => {
    const seconds = task('d.mp4', { type: 'labels', value: { start: 0.5, end: 2, labels: ['jump'] } });
    const frames = task('c.mp4', {
      type: 'timelinelabels',
      value: { ranges: [{ start: 1, end: 50 }], timelinelabels: ['run'] },
    });
    const [text] = write(studio([seconds, frames], 25), ['all.txt']);
    expect(text).toBe('# columns: path label start end\nd.mp4 0 0.5 2\nc.mp4 1 0 2\n');
    expect(problemsOf(() => studio([frames]))).toEqual([expect.stringContaining('Give --frame-rate')]);
    expect(problemsOf(() => studio({ tasks: [] }))).toEqual([
      expect.stringContaining('Export from Label Studio as JSON'),
    ]);
  });

  const cvat = (inside: string, frameRate?: number): Layout => {
    make({ 'annotations.xml': `<?xml version="1.0"?>\n<annotations>\n${inside}\n</annotations>\n` }, [
      'v/a&b.mp4',
      'v/c.mp4',
    ]);
    return readCvat({ file: at('annotations.xml'), videos: at('v'), frameRate });
  };
  /** As CVAT numbers them: by their place in the video, also where the task has every so many of them. */
  const images = (labels: string[], id = '', first = 0, step = 1) =>
    labels
      .map((label, i) => [first + i * step, label && `<tag label="${label}"/>`])
      .map(([frame, tag]) => `<image id="${frame}" name="frame"${id}>${tag}</image>`)
      .join('\n');
  const meta = (source: string, more = '') =>
    `<meta><task><id>3</id><size>4</size>${more}<source>${source}</source></task></meta>`;

  test('CVAT: one tag is the class of the video, other tags are parts of neighbouring frames', () => {
    expect(write(cvat(meta('a&amp;b.mp4') + images(['', 'jump', ''])), ['all.txt', 'classes.txt'])).toEqual([
      'a&b.mp4 0\n',
      'jump\n',
    ]);
    const parts =
      meta('c.mp4', '<start_frame>10</start_frame><frame_filter>step=5</frame_filter>') +
      images(['run', 'run', '', 'run', 'jump'], '', 10, 5);
    expect(write(cvat(parts, 10), ['all.txt'])).toEqual([
      '# columns: path label start end\nc.mp4 1 1 2\nc.mp4 1 2.5 3\nc.mp4 0 3 3.5\n',
    ]);
    expect(problemsOf(() => cvat(parts))).toEqual([
      expect.stringMatching(/annotations\.xml:3 {2}tags of c\.mp4 .*Give --frame-rate/),
    ]);
  });

  test('CVAT for video: a track is a part, or several where it is out of sight; one on every frame is the class', () => {
    const track = (label: string, seen: [number, 0 | 1][], more = '') =>
      `<track id="0" label="${label}"${more}>${seen.map(([frame, outside]) => `<box frame="${frame}" outside="${outside}"/>`).join('')}</track>`;
    const all = [0, 1, 2, 3].map((frame): [number, 0] => [frame, 0]);
    expect(write(cvat(meta('c.mp4') + track('run', all)), ['all.txt'])).toEqual(['c.mp4 0\n']);
    const parts =
      meta('c.mp4', '<start_frame>10</start_frame><frame_filter>step=5</frame_filter>').replace(
        '4</size>',
        '40</size>',
      ) +
      track('run', [
        [10, 0],
        [15, 0],
        [20, 1],
        [40, 0],
        [60, 1],
      ]) + // of keyframes alone, too
      track('jump', [[12, 0]]);
    expect(write(cvat(parts, 10), ['all.txt'])).toEqual([
      '# columns: path label start end\nc.mp4 1 1 2\nc.mp4 0 1.2 1.7\nc.mp4 1 4 6\n',
    ]);
    const tasks =
      '<meta><project><tasks><task><id>3</id><size>9</size><source>c.mp4</source></task><task><id>4</id><size>9</size><source>a&amp;b.mp4</source></task></tasks></project></meta>';
    const project =
      tasks +
      track(
        'run',
        [
          [0, 0],
          [1, 1],
        ],
        ' task_id="4"',
      );
    expect(write(cvat(project, 10), ['all.txt', 'left-out.tsv'])).toEqual([
      '# columns: path label start end\na&b.mp4 0 0 0.1\n',
      expect.stringContaining('c.mp4'),
    ]);
  });

  test('CVAT: the tasks of a project, a fault with its line, and other formats', () => {
    const tasks =
      '<meta><project><id>1</id><tasks><task><id>3</id><source>c.mp4</source></task><task><id>4</id><source>a&amp;b.mp4</source></task></tasks></project></meta>';
    const layout = cvat(tasks + images(['run'], ' task_id="3"') + images(['jump'], ' task_id="4"'));
    expect(write(layout, ['all.txt'])).toEqual(['c.mp4 1\na&b.mp4 0\n']);
    expect(problemsOf(() => cvat('<meta>\n<task></meta>'))).toEqual([expect.stringMatching(/annotations\.xml:4/)]);
    expect(problemsOf(() => cvat(''))).toEqual([expect.stringContaining('names no task with a video')]);
  });
});

test('a table of a thousand rows names each fault once, and csv of others is read alike', () => {
  const bad = csvFormatRows([
    ['path', 'label'],
    ...Array.from({ length: 1000 }, (_, i) => [`${i}.mp4`, i % 2 ? 'x' : '']),
  ]);
  expect(problemsOf(() => readTable(bad))).toHaveLength(500);
});
