/* sim/catalogue.c -- floor 5, sim: which node classes there are. The built-in list is what text-to-image and
 * image-to-image workflows use; a saved /object_info takes its place. */
#include "sim/inside.h"

#define SAMPLERS "[\"euler\",\"euler_ancestral\",\"heun\",\"dpm_2\",\"lms\",\"dpmpp_2m\",\"dpmpp_2m_sde\",\"dpmpp_sde\",\"ddim\",\"uni_pc\",\"lcm\"]"
#define SCHEDULERS "[\"normal\",\"karras\",\"exponential\",\"sgm_uniform\",\"simple\",\"ddim_uniform\",\"beta\"]"
#define SIDE "[\"INT\",{\"default\":512,\"min\":16,\"max\":16384,\"step\":8}]"
#define METHODS "[[\"nearest-exact\",\"bilinear\",\"area\",\"bicubic\",\"lanczos\"]]"
#define D(name, required, out, is_output, category) \
    "\"" name "\":{\"input\":{\"required\":{" required "}},\"output\":[" out "],\"output_name\":[" out "],\"name\":\"" name \
    "\",\"display_name\":\"" name "\",\"description\":\"\",\"python_module\":\"nodes\",\"category\":\"" category "\",\"output_node\":" is_output "}"

const char mp_sim_catalogue[] = "{"
    D("CheckpointLoaderSimple", "\"ckpt_name\":[[\"sd15.safetensors\",\"sdxl.safetensors\",\"flux-dev.safetensors\",\"dreamshaper.safetensors\"]]", "\"MODEL\",\"CLIP\",\"VAE\"", "false", "loaders") ","
    D("LoraLoader", "\"model\":[\"MODEL\"],\"clip\":[\"CLIP\"],\"lora_name\":[[\"detail.safetensors\",\"style.safetensors\"]],\"strength_model\":[\"FLOAT\",{\"default\":1.0,\"min\":-100.0,\"max\":100.0}],\"strength_clip\":[\"FLOAT\",{\"default\":1.0,\"min\":-100.0,\"max\":100.0}]", "\"MODEL\",\"CLIP\"", "false", "loaders") ","
    D("VAELoader", "\"vae_name\":[[\"vae-ft-mse.safetensors\"]]", "\"VAE\"", "false", "loaders") ","
    D("UpscaleModelLoader", "\"model_name\":[[\"4x-ultra.pth\",\"2x-soft.pth\"]]", "\"UPSCALE_MODEL\"", "false", "loaders") ","
    D("CLIPSetLastLayer", "\"clip\":[\"CLIP\"],\"stop_at_clip_layer\":[\"INT\",{\"default\":-1,\"min\":-24,\"max\":-1}]", "\"CLIP\"", "false", "conditioning") ","
    D("CLIPTextEncode", "\"text\":[\"STRING\",{\"multiline\":true}],\"clip\":[\"CLIP\"]", "\"CONDITIONING\"", "false", "conditioning") ","
    D("ConditioningCombine", "\"conditioning_1\":[\"CONDITIONING\"],\"conditioning_2\":[\"CONDITIONING\"]", "\"CONDITIONING\"", "false", "conditioning") ","
    D("EmptyLatentImage", "\"width\":" SIDE ",\"height\":" SIDE ",\"batch_size\":[\"INT\",{\"default\":1,\"min\":1,\"max\":4096}]", "\"LATENT\"", "false", "latent") ","
    D("LatentUpscale", "\"samples\":[\"LATENT\"],\"upscale_method\":" METHODS ",\"width\":" SIDE ",\"height\":" SIDE ",\"crop\":[[\"disabled\",\"center\"]]", "\"LATENT\"", "false", "latent") ","
    D("KSampler", "\"model\":[\"MODEL\"],\"seed\":[\"INT\",{\"default\":0,\"min\":0,\"max\":18446744073709551615,\"control_after_generate\":true}],\"steps\":[\"INT\",{\"default\":20,\"min\":1,\"max\":10000}],\"cfg\":[\"FLOAT\",{\"default\":8.0,\"min\":0.0,\"max\":100.0}],\"sampler_name\":[" SAMPLERS "],\"scheduler\":[" SCHEDULERS "],\"positive\":[\"CONDITIONING\"],\"negative\":[\"CONDITIONING\"],\"latent_image\":[\"LATENT\"],\"denoise\":[\"FLOAT\",{\"default\":1.0,\"min\":0.0,\"max\":1.0}]", "\"LATENT\"", "false", "sampling") ","
    D("KSamplerAdvanced", "\"model\":[\"MODEL\"],\"add_noise\":[[\"enable\",\"disable\"]],\"noise_seed\":[\"INT\",{\"default\":0,\"min\":0,\"max\":18446744073709551615}],\"steps\":[\"INT\",{\"default\":20,\"min\":1,\"max\":10000}],\"cfg\":[\"FLOAT\",{\"default\":8.0,\"min\":0.0,\"max\":100.0}],\"sampler_name\":[" SAMPLERS "],\"scheduler\":[" SCHEDULERS "],\"positive\":[\"CONDITIONING\"],\"negative\":[\"CONDITIONING\"],\"latent_image\":[\"LATENT\"],\"start_at_step\":[\"INT\",{\"default\":0,\"min\":0,\"max\":10000}],\"end_at_step\":[\"INT\",{\"default\":10000,\"min\":0,\"max\":10000}],\"return_with_leftover_noise\":[[\"disable\",\"enable\"]]", "\"LATENT\"", "false", "sampling") ","
    D("VAEDecode", "\"samples\":[\"LATENT\"],\"vae\":[\"VAE\"]", "\"IMAGE\"", "false", "latent") ","
    D("VAEEncode", "\"pixels\":[\"IMAGE\"],\"vae\":[\"VAE\"]", "\"LATENT\"", "false", "latent") ","
    D("LoadImage", "\"image\":[[],{\"image_upload\":true}]", "\"IMAGE\",\"MASK\"", "false", "image") ","
    D("EmptyImage", "\"width\":[\"INT\",{\"default\":512,\"min\":1,\"max\":16384}],\"height\":[\"INT\",{\"default\":512,\"min\":1,\"max\":16384}],\"batch_size\":[\"INT\",{\"default\":1,\"min\":1,\"max\":4096}],\"color\":[\"INT\",{\"default\":0,\"min\":0,\"max\":16777215}]", "\"IMAGE\"", "false", "image") ","
    D("ImageScale", "\"image\":[\"IMAGE\"],\"upscale_method\":" METHODS ",\"width\":" SIDE ",\"height\":" SIDE ",\"crop\":[[\"disabled\",\"center\"]]", "\"IMAGE\"", "false", "image") ","
    D("ImageInvert", "\"image\":[\"IMAGE\"]", "\"IMAGE\"", "false", "image") ","
    D("ImageBlur", "\"image\":[\"IMAGE\"],\"blur_radius\":[\"INT\",{\"default\":1,\"min\":1,\"max\":31}],\"sigma\":[\"FLOAT\",{\"default\":1.0,\"min\":0.1,\"max\":10.0}]", "\"IMAGE\"", "false", "image") ","
    D("ImageUpscaleWithModel", "\"upscale_model\":[\"UPSCALE_MODEL\"],\"image\":[\"IMAGE\"]", "\"IMAGE\"", "false", "image") ","
    D("SaveImage", "\"images\":[\"IMAGE\"],\"filename_prefix\":[\"STRING\",{\"default\":\"ComfyUI\"}]", "", "true", "image") ","
    D("PreviewImage", "\"images\":[\"IMAGE\"]", "", "true", "image") "}";

const char *mp_sim_builtin_catalogue(void) { return mp_sim_catalogue; }

const mp_json *class_def(const mp_sim *s, const char *class_type) { return mp_json_get(s->catalogue, class_type); }

/* With any_node a class nobody knows is an output when nothing in the prompt takes what it makes. */
int is_output_class(const mp_sim *s, const mp_json *prompt, const char *id, const char *class_type) {
    const mp_json *def = class_def(s, class_type);
    if (def) return mp_json_true(mp_json_get(def, "output_node"));
    for (const mp_json *n = mp_json_first(prompt); n; n = mp_json_next(n))
        for (const mp_json *i = mp_json_first(mp_json_get(n, "inputs")); i; i = mp_json_next(i))
            if (is_link(i) && strcmp(mp_json_string(mp_json_first(i)), id) == 0) return 0;
    return s->o.any_node;
}
