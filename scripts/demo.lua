-- scripts/demo.lua: a batch of 24 pictures on three simulated servers of different speed, with live progress, the
-- pictures saved and the profile of the slowest job printed.
--   moonpool scripts/demo.lua [--workflow FILE] [--jobs N] [--out DIR]
-- With MOONPOOL_SERVERS=http://a:8188,http://b:8188 the same script uses those servers.
local moonpool = require "moonpool"

local options = { jobs = "24", out = "build/demo" }
do
  local i = 1
  while arg[i] do
    local name = arg[i]:match "^%-%-(%a+)$"
    if not (name == "workflow" or name == "jobs" or name == "out") or not arg[i + 1] then
      io.stderr:write("usage: demo.lua [--workflow FILE] [--jobs N] [--out DIR]\n")
      os.exit(2, true)
    end
    options[name] = arg[i + 1]
    i = i + 2
  end
end
local jobs = math.tointeger(tonumber(options.jobs))
if not jobs or jobs < 1 then
  io.stderr:write("demo.lua: --jobs: a whole number from 1 expected, got ", options.jobs, "\n")
  os.exit(2, true)
end

-- Two text-to-image workflows that differ in their model, so in their structural hash.
local function text_to_image(model, steps, side)
  return assert(moonpool.workflow.from {
    ["4"] = { class_type = "CheckpointLoaderSimple", inputs = { ckpt_name = model } },
    ["5"] = { class_type = "EmptyLatentImage", inputs = { width = side, height = side, batch_size = 1 } },
    ["6"] = { class_type = "CLIPTextEncode", inputs = { text = "", clip = { "4", 1 } }, _meta = { title = "Positive" } },
    ["7"] = { class_type = "CLIPTextEncode", inputs = { text = "blurry", clip = { "4", 1 } }, _meta = { title = "Negative" } },
    ["3"] = {
      class_type = "KSampler",
      inputs = {
        seed = -1, steps = steps, cfg = 7.0, sampler_name = "euler", scheduler = "normal", denoise = 1.0,
        model = { "4", 0 }, positive = { "6", 0 }, negative = { "7", 0 }, latent_image = { "5", 0 },
      },
    },
    ["8"] = { class_type = "VAEDecode", inputs = { samples = { "3", 0 }, vae = { "4", 2 } } },
    ["9"] = { class_type = "SaveImage", inputs = { images = { "8", 0 }, filename_prefix = "lighthouse" } },
  })
end

local workflows
if options.workflow then
  workflows = { assert(moonpool.workflow.load(options.workflow)) }
else
  workflows = { text_to_image("sd15.safetensors", 20, 512), text_to_image("sdxl.safetensors", 12, 768) }
end

local pool <close> = moonpool.pool { policy = "default", log_level = "error" }
local sims = {}

local servers = os.getenv "MOONPOOL_SERVERS"
if servers and servers ~= "" then
  for url in servers:gmatch "[^,%s]+" do assert(pool:add_client(url)) end
else
  for i, speed in ipairs { 2, 3, 4 } do
    sims[i] = assert(moonpool.sim { speed = speed, previews = true, seed = i })
    -- The third server belongs to the second workflow, and takes general work too.
    local affinity = i == 3 and workflows[2] and { workflows[2] } or nil
    assert(pool:add_client(sims[i].url, { name = "sim-" .. i .. " (x" .. speed .. ")", affinity = affinity }))
  end
end
assert(pool:init())

-- ---- live progress ----------------------------------------------------------------------------------------------

local tty = moonpool.core.isatty(1)
local began = moonpool.core.now()
local running, done, painted = {}, 0, 0

local function bar(share, width)
  local full = math.floor(share * width + 0.5)
  return ("#"):rep(full) .. ("."):rep(width - full)
end

local function left()
  local part = done
  for _, r in pairs(running) do part = part + r.overall end
  if part <= 0 then return "" end
  return (", %.1f s left"):format((moonpool.core.now() - began) / 1000 * (jobs - part) / part)
end

local function paint()
  if not tty then return end
  if painted > 0 then io.write(("\27[%dA"):format(painted)) end
  painted = 0
  for _, c in ipairs(pool:clients()) do
    local r = running[c.name]
    io.write(("\27[2K%-14s [%s] %s\n"):format(c.name, bar(r and r.overall or 0, 30), r and ("job %s, node %s %g/%g"):format(r.job, r.node, r.value, r.max) or c.state))
    painted = painted + 1
  end
  io.write(("\27[2K%-14s [%s] %d/%d%s\n"):format("overall", bar(done / jobs, 30), done, jobs, left()))
  painted = painted + 1
  io.flush()
end

local last_paint = 0
pool:on("job:progress", function(p)
  running[p.client] = { job = p.job_id, node = p.node, value = p.value, max = p.max, overall = p.overall }
  if moonpool.core.now() - last_paint > 50 then
    last_paint = moonpool.core.now()
    paint()
  end
end)

-- ---- the batch ------------------------------------------------------------------------------------------------------

for i = 1, jobs do
  local w = workflows[(i - 1) % #workflows + 1]:clone()
  if not options.workflow then w:input("6", "text", "a lighthouse at dusk, number " .. i) end
  assert(pool:submit(w, { metadata = { number = i } }))
end

local slowest, failed, files = nil, 0, 0
for result in pool:results() do
  done = done + 1
  if result.client and running[result.client] and running[result.client].job == result.job_id then running[result.client] = nil end
  if result.status == "completed" then
    local paths, err = result:save(options.out)
    if not paths then io.stderr:write("saving failed: ", tostring(err), "\n") end
    files = files + #(paths or {})
    if not slowest or result.profile.executionTime > slowest.executionTime then slowest = result.profile end
  else
    failed = failed + 1
    io.stderr:write(("job %s %s: %s\n"):format(result.job_id, result.status, tostring(result.error)))
  end
  if tty then paint()
  else print(("%2d/%d  %-14s %7.0f ms  job %s %s%s"):format(done, jobs, result.client or "-", result.profile.executionTime, result.job_id, result.status, left())) end
end

print(("\n%d jobs in %.1f s on %d servers, %d failed, %d pictures in %s/\n"):format(jobs, (moonpool.core.now() - began) / 1000, #pool:clients(), failed, files, options.out))
if slowest then
  print "The slowest job:"
  io.write(moonpool.report.text(slowest))
end
pool:shutdown { drain = true, timeout_ms = 2000 }
for _, s in ipairs(sims) do s:close() end
os.exit(failed == 0 and 0 or 1, true)
