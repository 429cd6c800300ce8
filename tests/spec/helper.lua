-- tests/spec/helper.lua: what several specs need.
local H = {}

H.shared = os.getenv "MOONPOOL_SHARED" or "../shared"

-- Whether the recordings stand beside the checkout; specs that need them say so when they skip.
function H.has_shared()
  local f = io.open(H.shared .. "/hash-vectors.json")
  if f then f:close() end
  return f ~= nil
end

function H.read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "a"
  f:close()
  return text
end

function H.write(path, text)
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

-- A text-to-image workflow of seven nodes, as JSON text.
H.text_to_image = [[{
  "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
  "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
  "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}, "_meta": {"title": "Positive"}},
  "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}, "_meta": {"title": "Negative"}},
  "3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 8, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1,
        "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
  "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
  "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "lighthouse"}}
}]]

-- The program under test and its build folder: MOONPOOL_BUILD is set by the Makefile.
H.build = os.getenv "MOONPOOL_BUILD" or "build"
H.moonpool = H.build .. "/moonpool"

-- Runs a command; its whole output and its exit code.
function H.run(command)
  local p = assert(io.popen(command .. " 2>&1; echo \"[$?]\""))
  local out = p:read "a"
  p:close()
  local text, code = out:match "^(.*)%[(%d+)%]\n$"
  return text, tonumber(code)
end

-- A folder of its own under the build folder, empty. MOONPOOL_PART: which of several runs side by side this is.
function H.folder(name)
  local path = H.build .. "/tmp/" .. (os.getenv "MOONPOOL_PART" or "0") .. "/" .. name
  os.execute("rm -rf '" .. path .. "' && mkdir -p '" .. path .. "'")
  return path
end

-- Simulated servers in a process of their own: their addresses, and a function that ends it.
function H.servers(count, more)
  local moonpool = require "moonpool"
  local out = os.tmpname()
  os.execute(("%s sim --port 0 --count %d --speed 50 %s > %s 2>&1 & echo $! > %s.pid"):format(H.moonpool, count, more or "", out, out))
  local urls
  for _ = 1, 6000 do                                   -- until their lines are there; the bound only keeps a broken one from hanging the run
    urls = {}
    for url in H.read(out):gmatch "listening on (http://[%d.:]+)" do urls[#urls + 1] = url end
    if #urls == count then break end
    moonpool.sleep(5)
  end
  assert(#urls == count, H.read(out))
  local pid = H.read(out .. ".pid"):match "%d+"
  return urls, function()
    os.execute("kill " .. pid .. " 2>/dev/null")
    os.remove(out)
    os.remove(out .. ".pid")
  end
end

return H
