/** Names that other programs have for our keys, so that a mistake can name the right key. */

const SYNONYMS: Readonly<Record<string, string>> = {
  ...{ learning_rate: 'train.lr', max_lr: 'train.lr', base_lr: 'train.lr', wd: 'train.weight_decay' },
  ...{
    max_steps: 'train.steps',
    iterations: 'train.steps',
    num_iterations: 'train.steps',
    warmup: 'train.warmup_steps',
  },
  ...{ batch: 'train.batch_size', bs: 'train.batch_size', grad_accum: 'train.micro_batches' },
  ...{ accumulation_steps: 'train.micro_batches', gradient_accumulation_steps: 'train.micro_batches' },
  ...{
    grad_clip: 'train.clip_grad_norm',
    max_grad_norm: 'train.clip_grad_norm',
    gradient_clip_val: 'train.clip_grad_norm',
  },
  ...{ amp: 'train.precision', dtype: 'train.precision', fp16: 'train.precision', bf16: 'train.precision' },
  ...{ ema: 'train.ema_decay', smoothing: 'train.label_smoothing', class_weight: 'train.class_weights' },
  ...{ workers: 'data.num_workers', frames: 'data.num_frames', clip_len: 'data.num_frames', fps: 'data.stride' },
  ...{ frame_stride: 'data.stride', image_size: 'data.size', crop_size: 'data.size', img_size: 'data.size' },
  ...{ train: 'data.train_list', val: 'data.val_list', train_data: 'data.train_list', val_data: 'data.val_list' },
  ...{
    class_names: 'data.classes',
    multi_label: 'data.labels',
    balanced: 'data.balance',
    hflip: 'data.mirror',
    augmentation: 'data.augment',
  },
  ...{ auto_augmentation: 'data.augment', rand_augment: 'data.augment', flip: 'data.mirror' },
  ...{
    pretrained: 'model.backbone.weights',
    weights_path: 'model.backbone.weights',
    clip_weights: 'model.backbone.weights',
  },
  ...{ backbone_weights: 'model.backbone.weights', arch: 'model.backbone.preset', model_name: 'model.backbone.preset' },
  ...{ dropout_rate: 'model.head.dropout', gpus: 'launch.devices', num_gpus: 'launch.devices' },
  ...{ log_every: 'run.print_every', log_interval: 'run.print_every', checkpoint_every: 'run.save_every' },
  ...{ eval_interval: 'eval.every', val_interval: 'eval.every', save_interval: 'run.save_every' },
  ...{ views: 'eval.temporal_views', crops: 'eval.spatial_views' },
};
const EPOCHS = 'Training is counted in steps: train.steps = epochs x videos / train.batch_size.';
const ADVICE: Readonly<Record<string, string>> = {
  ...{ epochs: EPOCHS, num_epochs: EPOCHS, max_epochs: EPOCHS, n_epochs: EPOCHS },
  output_dir: 'The run folder is given on the command line: --run-dir DIR.',
  output: 'The run folder is given on the command line: --run-dir DIR.',
  checkpoint_dir: 'The run folder is given on the command line: --run-dir DIR.',
  resume: 'Resuming is given on the command line: --resume auto|never|PATH.',
  optimizer: 'The optimizer is AdamW: train.lr, train.weight_decay.',
  scheduler: 'The schedule is a cosine: train.warmup_steps, train.steps.',
  lr_schedule: 'The schedule is a cosine: train.warmup_steps, train.steps.',
};

/** Returns our key for another program's last part of a key. */
export const translateKey = (name: string): string | undefined =>
  Object.hasOwn(SYNONYMS, name) ? SYNONYMS[name] : undefined;

/** Returns what does here what that name does elsewhere, where it is no key. */
export const adviseOn = (name: string): string | undefined => (Object.hasOwn(ADVICE, name) ? ADVICE[name] : undefined);
