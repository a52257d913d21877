/** What a backbone's weights file must look like from outside; Python reads what is in it. */

import { closeSync, openSync, readSync, statSync } from 'node:fs';

/** Returns where such a file comes from; OpenAI published one for each of these. */
export function adviseFetch(preset: string): string {
  const isPublic = preset.startsWith('ViT-');
  const fetch = isPublic ? ` \`coldframe weights fetch ${preset}\` downloads OpenAI's.` : '';
  return `Give the path of a CLIP weights file, or \`random\`.${fetch}`;
}

/** Returns what is wrong with the file at first sight, undefined when it may hold weights. It opens 512 bytes. */
export function explainWeightsFile(file: string): string | undefined {
  let head: Buffer;
  try {
    if (statSync(file).isDirectory()) return `${file} is a folder.`;
    head = readHead(file);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' || code === 'ENOTDIR' ? `no file at ${file}.` : `${file} cannot be read: ${message}.`;
  }
  const text = head.toString('latin1').trimStart().toLowerCase();
  if (head.length === 0) return `${file} is empty.`;
  if (text.startsWith('version https://git-lfs'))
    return `${file} is a Git LFS pointer, not the file itself: run \`git lfs pull\` where it came from.`;
  if (/^(<!doctype|<html|<\?xml)/.test(text))
    return `${file} is a web page, not weights: the download was answered with an error or a login page.`;
  // A zip (torch, TorchScript), a pickle (older torch), or safetensors: eight bytes of length, then JSON.
  const isWeights = text.startsWith('pk') || head[0] === 0x80 || head[8] === 0x7b;
  return isWeights ? undefined : `${file} is neither a torch nor a safetensors file.`;
}

function readHead(file: string): Buffer {
  const descriptor = openSync(file, 'r');
  try {
    const bytes = Buffer.alloc(512);
    return bytes.subarray(0, readSync(descriptor, bytes));
  } finally {
    closeSync(descriptor);
  }
}
