/**
 * The keys of a configuration: name, type, range, default and a line of help each, with upstream's flag in brackets.
 *
 * docs/configuration.md and configs/coldframe.schema.json, for editors, are made from this file: `make docs`.
 */
import { z } from 'zod';

const count = z.int().min(1);
const size = z.number().positive();
const share = z.number().min(0).max(1);
const text = z.string().min(1);
const perChannel = z.array(z.number()).length(3);

export const section = <Shape extends z.core.$ZodLooseShape>(shape: Shape) =>
  z.strictObject(shape).prefault({} as never);

/** A key that may be left out or null; its value then follows from others (resolve.ts). */
const derived = <Schema extends z.ZodType>(schema: Schema) => schema.nullable().default(null);

export const CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073];
export const CLIP_STD = [0.26862954, 0.26130258, 0.27577711];

/** Backbone sizes: openai/CLIP `clip/model.py` reads the same from its weights; `tiny` is ours, for tests and demo. */
export const PRESETS = {
  'ViT-B/16': { width: 768, num_layers: 12, num_heads: 12, patch_size: 16, input_size: 224, mlp_factor: 4 },
  'ViT-L/14': { width: 1024, num_layers: 24, num_heads: 16, patch_size: 14, input_size: 224, mlp_factor: 4 },
  'ViT-L/14@336px': { width: 1024, num_layers: 24, num_heads: 16, patch_size: 14, input_size: 336, mlp_factor: 4 },
  tiny: { width: 128, num_layers: 4, num_heads: 4, patch_size: 8, input_size: 64, mlp_factor: 4 },
};

const dataShape = {
  train_list: text.nullable().default(null).describe('Training clips, `<path> <label>` a line [--train_list_path].'),
  val_list: text.nullable().default(null).describe('Clips to evaluate on [--val_list_path].'),
  root: text
    .nullable()
    .default(null)
    .describe("Folder of the lists' relative paths; null: each list's own [--data_root]."),
  train_root: text.nullable().default(null).describe('The same for the training list; null: root [--train_data_root].'),
  val_root: text.nullable().default(null).describe('The same for the validation list; null: root [--val_data_root].'),
  classes: text.nullable().default(null).describe('File of class names, one a line, in the order of the labels.'),
  num_classes: derived(count).describe('Number of classes; null: the lines of `classes`, else 400 [--num_classes].'),
  labels: z
    .enum(['single', 'multi'])
    .default('single')
    .describe(
      'multi: a clip has any number of labels, `1,5,9` in a list, `-` for none; trained with a sigmoid for each class.',
    ),
  balance: z
    .enum(['none', 'classes'])
    .default('none')
    .describe('classes: every class gives as many training clips as any other, however few it has.'),
  num_frames: count.default(8).describe('Frames a clip [--num_frames].'),
  stride: count
    .default(16)
    .describe('Video frames from one frame of a clip to the next, dense only [--sampling_rate].'),
  sampling: z
    .enum(['dense', 'tsn'])
    .default('dense')
    .describe('dense: neighbouring frames; tsn: spread over the whole video [--tsn_sampling].'),
  size: derived(count).describe("Height and width of a clip, pixels; null: the backbone's [--spatial_size]."),
  mean: z
    .union([z.number(), perChannel])
    .default(CLIP_MEAN)
    .describe("Pixel mean, range 0..1, one or three numbers; default: CLIP's [--mean]."),
  std: z
    .union([size, z.array(size).length(3)])
    .default(CLIP_STD)
    .describe("Pixel standard deviation, one or three numbers; default: CLIP's [--std]."),
  augment: text
    .nullable()
    .default('rand-m7-n4-mstd0.5-inc1')
    .describe('RandAugment policy; null: off [--auto_augment].'),
  mirror: z
    .boolean()
    .default(false)
    .describe('Flip half of the training clips left to right. Upstream never reads its flag, so its recipes do not.'),
  interpolation: z
    .enum(['bicubic', 'bilinear', 'random'])
    .default('bicubic')
    .describe('How the augmentation resamples [--interpolation].'),
  num_workers: z
    .int()
    .min(0)
    .default(12)
    .describe('Decoding processes, at most the cores of a slot; 0: decode in the training process [--num_workers].'),
  short_clips: z
    .enum(['recipe', 'last_frame'])
    .default('recipe')
    .describe(
      'Videos shorter than a clip: recipe repeats in training the last frame that a stride reaches, and in evaluation the last one; last_frame does so in both.',
    ),
  reader: z
    .enum(['pyav', 'torchcodec'])
    .default('pyav')
    .describe('Video decoder; torchcodec has to be installed beside (`coldframe doctor` says how).'),
  clips_per_video: count
    .default(1)
    .describe('Training clips drawn from a video each time it is opened (repeated augmentation); divides batch_size.'),
  seed: derived(z.int().min(0)).describe(
    'Seed of order, clips and augmentation; null: train.seed. Trials of a sweep differ in train.seed and share this one.',
  ),
  features: text
    .nullable()
    .default(null)
    .describe('Folder of a feature cache (`coldframe features build`) to train and evaluate from instead of videos.'),
  on_bad_video: z
    .enum(['skip', 'fail'])
    .default('skip')
    .describe('A training video that cannot be read is skipped and reported, or ends the run.'),
  max_bad_fraction: share.default(0.01).describe('Largest share of training clips that may be skipped.'),
  dummy: z.boolean().default(false).describe('Random clips instead of videos, to measure speed [--dummy_dataset].'),
};

const backboneShape = {
  preset: z
    .enum(['ViT-B/16', 'ViT-L/14', 'ViT-L/14@336px', 'tiny', 'custom'])
    .default('ViT-B/16')
    .describe('Backbone architecture; custom: by the sizes below [--backbone].'),
  width: derived(count).describe('Channels of the backbone; from the preset.'),
  num_layers: derived(count).describe('Layers of the backbone; from the preset.'),
  num_heads: derived(count).describe('Attention heads of the backbone; from the preset.'),
  patch_size: derived(count).describe('Patch height and width, pixels; from the preset.'),
  input_size: derived(count).describe('Input height and width, pixels; equals data.size.'),
  mlp_factor: derived(size).describe('Width of the hidden mlp layer over width; from the preset, 4 if custom.'),
  activation: z
    .enum(['quick_gelu', 'gelu'])
    .default('quick_gelu')
    .describe("What the backbone was trained with: OpenAI's quick_gelu, or gelu as most of open_clip's own models."),
  weights: derived(text).describe('CLIP weights file, or `random` (the default of tiny and custom) [--backbone_path].'),
  weights_sha256: z
    .stringFormat('sha256', /^[0-9a-fA-F]{64}$/)
    .nullable()
    .default(null)
    .describe('Expected SHA-256 of the weights file, 64 hex digits; null: not checked.'),
  random_seed: z.int().min(0).default(0).describe('Seed of random backbone weights.'),
  train_blocks: count
    .nullable()
    .default(null)
    .describe('With freeze: false, train only so many last blocks of the backbone; null: all of it.'),
  freeze: z.boolean().default(true).describe('Do not train the backbone [--finetune_backbone].'),
};

/** The kinds of trained parts, with the keys that each alone reads: under another kind they are left at their defaults. */
export const DECODER_KINDS = {
  evl: /^model\.(decoder\.(qkv_dim|num_heads|mlp_factor|mlp_dropout|query_init)|temporal\..+|head\..+)$/,
  linear: /^model\.decoder\.(pool|frames)$/,
};

const decoderShape = {
  kind: z
    .enum(['evl', 'linear'])
    .default('evl')
    .describe('The trained part: evl, or a linear layer on pooled tokens, which reads num_layers, pool and frames.'),
  num_layers: count
    .default(4)
    .describe(
      'Decoder layers, on the last layers of the backbone; of linear the layers whose tokens stand side by side [--decoder_num_layers].',
    ),
  pool: z
    .enum(['class', 'patches', 'both'])
    .default('class')
    .describe("Of linear: what a frame gives, through the backbone's final norm: class token, mean of patches, both."),
  frames: z
    .enum(['mean', 'concat'])
    .default('mean')
    .describe('Of linear: frames averaged, so that their order does not count, or side by side.'),
  qkv_dim: derived(count).describe("Width of decoder attention; null: the backbone's [--decoder_qkv_dim]."),
  num_heads: derived(count).describe('Decoder attention heads; null: qkv_dim / 64 [--decoder_num_heads].'),
  mlp_factor: size.default(4).describe('Width of the hidden mlp layer over the width [--decoder_mlp_factor].'),
  mlp_dropout: share.default(0.5).describe('Dropout in decoder mlps [--decoder_mlp_dropout].'),
  query_init: z
    .enum(['zero', 'normal'])
    .default('zero')
    .describe("First class query: zero, as upstream's, or small random numbers."),
};

const modelShape = {
  backbone: section(backboneShape),
  decoder: section(decoderShape),
  temporal: section({
    conv: z.boolean().default(true).describe('Temporal convolution [--no_temporal_conv].'),
    position_embedding: z.boolean().default(true).describe('Temporal position embedding [--no_temporal_pos_embed].'),
    cross_attention: z.boolean().default(true).describe('Temporal cross attention [--no_temporal_cross_attention].'),
  }),
  head: section({ dropout: share.default(0.5).describe('Dropout before the classifier [--cls_dropout].') }),
};

const launchShape = {
  device: z.enum(['auto', 'cpu', 'cuda']).default('auto').describe('Where to compute; auto: cuda if there is one.'),
  devices: z
    .union([count, z.literal('auto')])
    .default(1)
    .describe(
      'Devices of each node, a process each; on a CPU so many processes. auto: the GPUs that CUDA_VISIBLE_DEVICES shows, on a CPU 1 [--nproc_per_node].',
    ),
  nodes: count.default(1).describe('Machines that train together [--nnodes].'),
  rendezvous: z
    .stringFormat('address', /^[^\s/]+:\d{1,5}$/)
    .nullable()
    .default(null)
    .describe(
      'Of several nodes, HOST:PORT of the first one, the same on all; null: what Slurm says. One node needs none.',
    ),
  max_restarts: z
    .int()
    .min(0)
    .default(0)
    .describe('Starts again so often in a row after failures of the runtime; what has moved on since counts anew.'),
  hang_seconds: size
    .default(30)
    .describe('Of several processes: one that the others wait for so long, without progress of its own, has hung.'),
  stall_seconds: size.default(600).describe('Without progress for so long the run ends with an error.'),
  cuda_graphs: z
    .boolean()
    .default(true)
    .describe(
      'On CUDA record what a step launches and replay it: faster, for the memory of a gradient a trial. Needs micro_batches: 1, compile: false and a frozen backbone.',
    ),
};

const otherShapes = {
  features: section({
    form: z
      .enum(['maps', 'inputs', 'one'])
      .default('maps')
      .describe(
        'What the cache holds: maps: features and attention maps (fastest); inputs: the input of each used block; one: of the first used block (smallest).',
      ),
    precision: z.enum(['fp16', 'fp32']).default('fp16').describe('Numbers of the cache; fp32 is exact.'),
    train_views: count.default(1).describe('Augmented views stored of each training video.'),
    batch_size: count
      .nullable()
      .default(null)
      .describe(
        'Clips of one backbone pass while it is built; null: 2 on a CPU, on a GPU what is free holds, up to 16.',
      ),
  }),
  prepare: section({
    short_side: z
      .int()
      .min(16)
      .nullable()
      .default(256)
      .describe('Shorter side of prepared clips, pixels; smaller ones stay as they are; null: all do.'),
    gop: count.max(18).default(4).describe('Frames from one I frame to the next; 1: every frame is one.'),
    crf: z.int().min(0).max(30).default(23).describe('Quality of H.264; less is better and larger.'),
    preset: z
      .enum(['ultrafast', 'superfast', 'veryfast', 'faster', 'fast', 'medium', 'slow'])
      .default('superfast')
      .describe('How long libx264 tries to make clips smaller.'),
  }),
  train: section({
    steps: count.default(50_000).describe('Optimizer steps [--num_steps].'),
    batch_size: count.default(256).describe('Clips a step, over all devices [--batch_size].'),
    micro_batches: count
      .default(1)
      .describe('Parts that each device computes its share of a batch in, to save memory [--batch_split].'),
    lr: size.default(4e-4).describe('Peak learning rate of AdamW [--lr].'),
    backbone_lr: size
      .nullable()
      .default(null)
      .describe('Peak learning rate of a backbone that is not frozen; null: lr. A tenth of lr or less is usual.'),
    weight_decay: z.number().min(0).default(0.05).describe('Weight decay of AdamW [--weight_decay].'),
    decay_all: z
      .boolean()
      .default(true)
      .describe(
        'Decay every parameter, as the released recipe; false spares norms, biases, positions and the class query, the usual choice.',
      ),
    warmup_steps: z.int().min(0).default(0).describe('Steps of linear warm-up before the cosine.'),
    clip_grad_norm: size.nullable().default(null).describe('Largest norm of the gradient; null: not clipped.'),
    precision: z
      .enum(['auto', 'fp32', 'bf16', 'fp16'])
      .default('auto')
      .describe('Number format of the computation; auto: by the device [--disable_fp16].'),
    seed: z.int().min(0).default(0).describe('Seed of the data order, augmentation, initialisation and dropout.'),
    compile: z.boolean().default(false).describe('Use torch.compile.'),
    class_weights: z
      .enum(['none', 'balanced'])
      .default('none')
      .describe(
        'balanced: a clip counts in the loss by how rare its class is in the training list; of data.labels: multi the yes and the no of each class.',
      ),
    label_smoothing: z
      .number()
      .min(0)
      .lt(1)
      .default(0)
      .describe('Label smoothing; of data.labels: multi towards one half.'),
    mixup: z.number().min(0).default(0).describe('Alpha of mixup; 0: off.'),
    cutmix: z.number().min(0).default(0).describe('Alpha of cutmix; 0: off.'),
    ema_decay: z
      .number()
      .gt(0)
      .lt(1)
      .nullable()
      .default(null)
      .describe('Decay a step of a running mean of the weights, which is then what is evaluated; null: none.'),
  }),
  eval: section({
    spatial_views: z
      .union([z.literal(1), z.literal(3)])
      .default(1)
      .describe('Crops along the long side, 1 or 3 [--num_spatial_views].'),
    temporal_views: count.default(3).describe('Clips along time [--num_temporal_views].'),
    batch_size: count.default(8).describe('Videos at once; each has spatial x temporal views.'),
    every: count
      .nullable()
      .default(5000)
      .describe('Evaluate every so many steps; null: at the end only [--eval_freq].'),
    thresholds: text
      .nullable()
      .default(null)
      .describe(
        "Of data.labels: multi, the result.json of an evaluation whose thresholds decide which classes a video has; null: the checkpoint's.",
      ),
    temperature: z
      .number()
      .gt(0)
      .default(1)
      .describe("What predict divides the logarithms of a video's probabilities by; `report` says which value fits."),
  }),
  run: section({
    print_every: count.default(10).describe('Report every so many steps [--print_freq].'),
    save_every: count.default(5000).describe('Save a checkpoint every so many steps [--save_freq].'),
    save_minutes: size
      .nullable()
      .default(10)
      .describe('Save one too when so many minutes have passed since the last; null: by steps alone.'),
    keep_checkpoints: count.nullable().default(3).describe('Newest checkpoints to keep; null: all.'),
    keep_best: z
      .boolean()
      .default(false)
      .describe('Keep the checkpoint of the best evaluation too, and name it checkpoints/best.'),
    init_from: text
      .nullable()
      .default(null)
      .describe('Checkpoint to take the first trained weights from [--pretrain].'),
    tensorboard: z.boolean().default(true).describe('Write metrics/ for TensorBoard.'),
    wandb: text.nullable().default(null).describe('Weights & Biases project; null: off.'),
    mlflow: text
      .nullable()
      .default(null)
      .describe('MLflow experiment, in the store that MLFLOW_TRACKING_URI names; null: off.'),
  }),
  launch: section(launchShape),
};

/** What a file may say. */
export const fileSchema = z.strictObject({ data: section(dataShape), model: section(modelShape), ...otherShapes });

/** What config.json and the Python side hold: nothing left to derive. */
export const resolvedSchema = z.strictObject({
  data: z.strictObject({
    ...dataShape,
    num_classes: count,
    seed: z.int().min(0),
    size: count,
    mean: perChannel,
    std: z.array(size).length(3),
  }),
  model: z.strictObject({
    ...modelShape,
    backbone: z.strictObject({
      ...backboneShape,
      ...{ width: count, num_layers: count, num_heads: count, patch_size: count, input_size: count },
      ...{ mlp_factor: size, weights: text },
    }),
    decoder: z.strictObject({ ...decoderShape, qkv_dim: count, num_heads: count }),
  }),
  ...otherShapes,
  launch: z.strictObject({ ...launchShape, devices: count }),
});

export type Draft = z.output<typeof fileSchema>;
export type Config = z.output<typeof resolvedSchema>;

/** Keys that hold a path. */
export const PATH_KEYS = new Set([
  ...['train_list', 'val_list', 'root', 'train_root', 'val_root', 'classes', 'features'].map((key) => `data.${key}`),
  'model.backbone.weights',
  'run.init_from',
  'eval.thresholds',
]);

export type Value = string | number | boolean | null;
/** Dotted keys of the configuration. */
export type Params = Record<string, Value>;
