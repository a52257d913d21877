/** How a training was done, in the page of `report`: environment, hashes, and how to repeat it. */

import { html, type SafeHtml } from '@remix-run/html-template';
import { stringify } from 'yaml';
import { showPath } from '../../base/errors.ts';
import { formatBytes } from '../../base/format.ts';
import { getAt } from '../../base/objects.ts';
import { quoteWord } from '../../base/words.ts';
import { day } from '../html.ts';
import { renderFacts } from '../page-parts.ts';
import type { RunView } from './view.ts';

export function renderMethod({ source, written }: RunView): SafeHtml {
  const { run, trial, evaluation, config, environment } = source;
  const { backbone, decoder } = config.model;
  const text = (key: string): string | null => {
    const value = getAt(environment, key);
    return value == null ? null : String(value);
  };
  const listed = (which: 'train' | 'val'): string | null => {
    const file = text(`lists.${which}.file`);
    if (file === null) return null;
    return `${showPath(file)}; ${text(`lists.${which}.num_lines`)} lines, SHA-256 ${text(`lists.${which}.sha256`)}`;
  };
  const memory = getAt(environment, 'memory_bytes');
  const versions = ['torch', 'av', 'numpy'].map((name) => `${name} ${text(`packages.${name}`) ?? '?'}`);
  const packages = `Python ${text('python') ?? '?'}, ${versions.join(', ')}`;
  const machine = [text('platform'), text('cpu'), typeof memory === 'number' ? formatBytes(memory) : null];
  const facts: [string, string | null][] = [
    ['training list', listed('train')],
    ['validation list', listed('val')],
    [
      'evaluated on',
      evaluation.list === null ? null : `${showPath(evaluation.list.file)}; SHA-256 ${evaluation.list.sha256}`,
    ],
    [
      'backbone',
      `${backbone.preset}, ${showPath(backbone.weights)}; SHA-256 ${text('backbone_sha256') ?? 'not known'}`,
    ],
    [
      'trained part',
      `${decoder.kind}, ${text('parameters.trained') ?? '?'} of ${text('parameters.total') ?? '?'} parameters`,
    ],
    ['seed', String(config.train.seed)],
    ['device', `${text('device') ?? '?'}, ${text('precision') ?? '?'}, ${text('num_threads') ?? '?'} threads`],
    ['machine', machine.filter(Boolean).join('; ')],
    ['packages', `${packages}; Node ${text('node') ?? '?'}`],
    ['commit of coldframe', text('git_commit')],
    ['folder', `${showPath(run.dir)}${trial === 'main' ? '' : `, trial ${trial}`}`],
    ['page written', day(written)],
  ];
  return html`<section>
<h2>How it was done</h2>
${renderFacts(facts)}
<h3>How to repeat it</h3>
<p class="quiet">With the same files, versions and number of threads a training on a CPU in fp32 comes out bit for bit. Save the
  configuration, whole as it was resolved, as <code>repeat.yaml</code>:</p>
<pre tabindex="0">${tellCommands(source)}</pre>
<div class="controls js-only"><button type="button" id="copy">Copy the configuration</button></div>
<details><summary>The configuration</summary>
<pre id="config-yaml" tabindex="0">${stringify(config)}</pre></details>
</section>`;
}

function tellCommands({ config, evaluation }: RunView['source']): string {
  const { spatial_views: spatial, temporal_views: temporal } = config.eval;
  const list = evaluation.list?.file;
  const other = list === undefined || list === config.data.val_list ? '' : ` --set data.val_list=${quoteWord(list)}`;
  return [
    'coldframe train --config repeat.yaml --run-dir runs/repeat',
    `coldframe evaluate --checkpoint runs/repeat${other} --set eval.spatial_views=${spatial} --set eval.temporal_views=${temporal}`,
    'coldframe report runs/repeat',
  ].join('\n');
}
