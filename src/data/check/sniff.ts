/** What a file is by its first bytes, or its name, where it can be no video. */
import { closeSync, openSync, readSync } from 'node:fs';
import { extname } from 'node:path';

/** Kinds of files that stand beside clips, and are none. */
const OTHERS = new Set(
  '.txt .csv .tsv .json .jsonl .xml .html .htm .md .log .srt .vtt .yaml .yml .py .sh .npy .npz .pkl .pt .wav .mp3 .flac .zip .tar .gz .part .ytdl'.split(
    ' ',
  ),
);
const HEAD_BYTES = 512;
/** By the bytes that a file of the kind begins with. */
const MAGIC: [string, string][] = [
  ['version https://git-lfs', 'a pointer of Git LFS. `git lfs pull` fetches the file'],
  ['%PDF-', 'a PDF'],
  ['PK\x03\x04', 'a ZIP archive'],
  ['\x1f\x8b', 'a gzip archive'],
  ['\x89PNG', 'a PNG picture'],
  ['\xff\xd8\xff', 'a JPEG picture'],
  ['ID3', 'an MP3'],
  ['fLaC', 'a FLAC'],
];

export const isVideoName = (name: string): boolean => !OTHERS.has(extname(name).toLowerCase());

/** Returns what a file is, undefined where it may be a video. One that cannot be opened throws. */
export function sniff(path: string): string | undefined {
  const head = readHead(path);
  const text = head.toString('latin1');
  if (text.startsWith('YUV4MPEG2')) return undefined; // a video that begins with a line of text
  const known = MAGIC.find(([begin]) => text.startsWith(begin));
  if (known !== undefined) return known[1];
  if (text.startsWith('RIFF') && text.slice(8, 12) === 'WAVE') return 'a WAVE';
  if (head.every((byte) => byte === 0)) return 'nothing but zeros';
  if (!head.every(isTextByte)) return undefined;
  return /^\s*<(!doctype html|html|\?xml)/i.test(text) ? 'a web page, as a failed download leaves it' : 'text';
}

function readHead(path: string): Buffer {
  const descriptor = openSync(path, 'r');
  try {
    const head = Buffer.alloc(HEAD_BYTES);
    return head.subarray(0, readSync(descriptor, head, 0, HEAD_BYTES, 0));
  } finally {
    closeSync(descriptor);
  }
}

const isTextByte = (byte: number): boolean => byte >= 32 || (byte >= 8 && byte <= 13) || byte === 27;
