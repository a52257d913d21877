/** Where each flag of upstream EVL (OpenGVLab/efficient-video-recognition, main.py and video_dataset/dataloader.py) went. */
export interface UpstreamFlag {
  /** Our key; null when a command or an option of the command line does it. */
  key: string | null;
  /** How to say it here. */
  how: string;
}

const same = (key: string): UpstreamFlag => ({ key, how: `${key}: VALUE` });
const as = (key: string, value: string): UpstreamFlag => ({ key, how: `${key}: ${value}` });
const option = (how: string): UpstreamFlag => ({ key: null, how });

export const UPSTREAM_FLAGS: Readonly<Record<string, UpstreamFlag>> = {
  num_steps: same('train.steps'),
  eval_only: option('coldframe evaluate --config FILE --checkpoint PATH'),
  save_freq: same('run.save_every'),
  eval_freq: same('eval.every'),
  print_freq: same('run.print_every'),
  backbone: as('model.backbone.preset', 'ViT-B/16 | ViT-L/14'),
  backbone_path: same('model.backbone.weights'),
  backbone_type: option('nothing: the format of the weights file is recognised'),
  finetune_backbone: as('model.backbone.freeze', 'false'),
  decoder_num_layers: same('model.decoder.num_layers'),
  decoder_qkv_dim: same('model.decoder.qkv_dim'),
  decoder_num_heads: same('model.decoder.num_heads'),
  decoder_mlp_factor: same('model.decoder.mlp_factor'),
  decoder_mlp_dropout: same('model.decoder.mlp_dropout'),
  num_classes: same('data.num_classes'),
  cls_dropout: same('model.head.dropout'),
  no_temporal_conv: as('model.temporal.conv', 'false'),
  no_temporal_pos_embed: as('model.temporal.position_embedding', 'false'),
  no_temporal_cross_attention: as('model.temporal.cross_attention', 'false'),
  lr: same('train.lr'),
  weight_decay: same('train.weight_decay'),
  disable_fp16: as('train.precision', 'fp32'),
  batch_split: same('train.micro_batches'),
  checkpoint_dir: option('coldframe train --run-dir DIR'),
  auto_resume: option('coldframe train --resume auto (the default)'),
  resume_path: option('coldframe train --resume PATH'),
  pretrain: same('run.init_from'),
  train_list_path: same('data.train_list'),
  val_list_path: same('data.val_list'),
  train_data_root: same('data.train_root'),
  val_data_root: same('data.val_root'),
  data_root: same('data.root'),
  batch_size: same('train.batch_size'),
  num_spatial_views: same('eval.spatial_views'),
  num_temporal_views: same('eval.temporal_views'),
  num_frames: same('data.num_frames'),
  sampling_rate: same('data.stride'),
  tsn_sampling: as('data.sampling', 'tsn'),
  spatial_size: same('data.size'),
  mean: same('data.mean'),
  std: same('data.std'),
  num_workers: same('data.num_workers'),
  dummy_dataset: as('data.dummy', 'true'),
  auto_augment: same('data.augment'),
  interpolation: same('data.interpolation'),
  no_mirror: as('data.mirror', 'false'),
};
