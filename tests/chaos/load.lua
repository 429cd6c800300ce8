-- tests/chaos/load.lua: small workflows of several kinds, and what must become of each: `files` pictures, or an end
-- that was meant. Every picture names its job, so that a mix-up shows.
local moonpool = require "moonpool"

local plain = [[{
  "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
  "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": ""}}
}]]
local two_outputs = [[{
  "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
  "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
  "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": ""}},
  "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
}]]
local text_to_image = [[{
  "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
  "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
  "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
  "1": {"class_type": "KSampler", "inputs": {"seed": -1, "steps": 6, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1,
        "model": ["4", 0], "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["5", 0]}},
  "8": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["4", 2]}},
  "2": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": ""}}
}]]

local function shape(text, files)
  return { workflow = assert(moonpool.workflow.from(text)), files = files }
end
local shapes = { plain = shape(plain, 1), two = shape(two_outputs, 2), text = shape(text_to_image, 1) }

-- Job number `i`: {workflow=, files=, mark=, doomed=, withdraw_ms=}. Of a hundred jobs two have a value that every
-- server refuses, and three are withdrawn at some moment.
return function(i, random)
  local kind = random:pick { "plain", "plain", "text", "text", "two", "batch" }
  local from = shapes[kind] or shapes.plain
  local mark = ("chaos-%05d"):format(i)
  local wf = from.workflow:clone():input("2", "filename_prefix", mark)
  local job = { number = i, kind = kind, workflow = wf, files = from.files, mark = mark }
  if kind == "text" then
    wf:input("6", "text", "a lighthouse, number " .. i)
    if random:chance(50) then wf:input("1", "seed", i) end
    if random:chance(6) then
      wf:input("1", "steps", 0)
      job.doomed = true
    end
  else
    wf:input("1", "color", i)
    if random:chance(10) then wf:input("1", "width", 256) end
  end
  if kind == "batch" then
    wf:input("1", "batch_size", 3)
    job.files = 3
  end
  if random:chance(3) then job.withdraw_ms = random:int(0, 1500) end
  return job
end
