use mla_runtime::mla_layer;

#[mla_layer(spec = "../../spec/models/moonlight.yaml", attn_mask_type = no_mask, build(dtype = bf16))]
struct MoonlightAttention;

fn main() {}
