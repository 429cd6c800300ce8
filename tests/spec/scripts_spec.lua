-- Every script of scripts/ against simulated servers in processes of their own: what it prints, the files it makes, and what the
-- servers were asked for.
local H = require "helper"
local moonpool = require "moonpool"
local json = moonpool.json

local stops = {}
after_each(function()
  for _, stop in ipairs(stops) do stop() end
  stops = {}
end)

local here = io.popen("pwd"):read "l"

local function servers(count, more)
  local urls, stop = H.servers(count, more)
  stops[#stops + 1] = stop
  return urls
end

-- The prompts that a server ran, in the order in which it did: {id = {class_type =, inputs =}} each.
local function asked(url)
  local list = {}
  for _, entry in pairs(json.decode(moonpool.http.request { url = url .. "/history" }.body)) do list[#list + 1] = entry.prompt end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  local prompts = {}
  for i, p in ipairs(list) do prompts[i] = p[3] end
  return prompts
end

local function run(urls, script, ...)
  return H.run(("MOONPOOL_SERVERS='%s' timeout 60 %s scripts/%s %s"):format(table.concat(urls, ","), H.moonpool, script, table.concat({ ... }, " ")))
end

local function is_png(path) assert.equal("\137PNG", H.read(path):sub(1, 4), path) end

describe("scripts/", function()
  it("hello.lua makes one picture", function()
    local urls = servers(1)
    local out, code = run(urls, "hello.lua", "'a red fox'")
    assert.equal(0, code, out)
    is_png(out:match "^(.-)\n")
    local prompts = asked(urls[1])
    assert.same({ 1, "a red fox" }, { #prompts, prompts[1]["6"].inputs.text })
  end)

  it("csv.lua makes a picture for each row, and goes on where it ended", function()
    local dir, urls = H.folder "csv", servers(1)
    H.write(dir .. "/p.csv", "\239\187\191name,Positive.text,Sampler.seed\r\none,\"a fox, \"\"red\"\"\",5\r\ntwo,\"an owl\nat night\",6\r\n")
    local out, code = run(urls, "csv.lua", dir .. "/p.csv", dir .. "/out")
    assert.equal(0, code, out)
    assert.matches("2 rows, 0 done before, 0 failed", out)
    is_png(dir .. "/out/one.png")
    is_png(dir .. "/out/two.png")
    local texts = {}
    for _, p in ipairs(asked(urls[1])) do texts[p["3"].inputs.seed] = p["6"].inputs.text end
    assert.same({ [5] = 'a fox, "red"', [6] = "an owl\nat night" }, texts)
    os.remove(dir .. "/out/two.png")
    out = run(urls, "csv.lua", dir .. "/p.csv", dir .. "/out")
    assert.matches("2 rows, 1 done before, 0 failed", out)
    is_png(dir .. "/out/two.png")
    assert.equal(3, #asked(urls[1]))
    H.write(dir .. "/bad.csv", "Positive.txet\nx\n")
    out, code = run(urls, "csv.lua", dir .. "/bad.csv", dir .. "/out")
    assert.equal(1, code)
    assert.matches("row 1: node 6 %(CLIPTextEncode%) has no input 'txet' %(did you mean 'text'%?%)", out)
  end)

  it("sweep.lua runs every combination", function()
    local dir, urls = H.folder "sweep", servers(1)
    local out, code = run(urls, "sweep.lua", dir)
    assert.equal(0, code, out)
    local seen, n = {}, 0
    for _, p in ipairs(asked(urls[1])) do seen[p["3"].inputs.sampler_name .. p["3"].inputs.steps] = true end
    for _ in pairs(seen) do n = n + 1 end
    assert.equal(9, n)
    is_png(dir .. "/lighthouse_sampler_name-ddim_steps-30.png")
    assert.equal(9, select(2, out:gsub("steps/s", "")))
  end)

  it("image_to_image.lua redraws a folder", function()
    local dir, urls = H.folder "redraw", servers(1)
    run(urls, "sweep.lua", dir .. "/in")
    local out, code = run(urls, "image_to_image.lua", dir .. "/in", dir .. "/out")
    assert.equal(0, code, out)
    is_png(dir .. "/out/lighthouse_sampler_name-ddim_steps-30.png")
    local prompts = asked(urls[1])
    assert.equal(18, #prompts)
    assert.equal("LoadImage", prompts[18]["1"].class_type)
    assert.matches("lighthouse_sampler_name", prompts[18]["1"].inputs.image)
  end)

  it("two_stages.lua hands the picture from one server to the other", function()
    local dir, urls = H.folder "stages", servers(2)
    local out, code = run(urls, "two_stages.lua", "3", dir)
    assert.equal(0, code, out)
    for i = 1, 3 do is_png(("%s/large-%d.png"):format(dir, i)) end
    local first, second = asked(urls[1]), asked(urls[2])
    assert.same({ 3, 3 }, { #first, #second })
    assert.is_table(first[1]["6"])
    assert.equal("ImageUpscaleWithModel", second[1]["3"].class_type)
    assert.matches("drawn%-%d", second[1]["1"].inputs.image)
  end)

  it("variants.lua sends the large model where there is room", function()
    local out, code = run({}, "variants.lua", "6")
    assert.equal(0, code, out)
    local total = 0
    for n, model, client in out:gmatch "(%d+)  (%S+) on (%S+)" do
      total = total + tonumber(n)
      assert.is_true(model ~= "sdxl.safetensors" or client == "24g", out)
    end
    assert.equal(6, total)
  end)

  it("routing.lua takes the paid server only for who has waited", function()
    local out, code = run({}, "routing.lua")
    assert.equal(0, code, out)
    local n = 0
    for client, ms in out:gmatch "(%S+)%s+after%s+(%d+) ms" do
      n = n + 1
      if client == "rented" then assert.is_true(tonumber(ms) >= 300, out) end
    end
    assert.equal(8, n)
  end)

  it("mutation.lua sends each client its style", function()
    local out, code = run({}, "mutation.lua")
    assert.equal(0, code, out)
    assert.matches("big   a lighthouse at dusk, oil painting, 512 pixels wide", out)
    assert.matches("small a lighthouse at dusk, film grain, 384 pixels wide", out)
  end)

  it("report_short.lua is a report of one line", function()
    local urls = servers(1)
    local out, code = H.run(("%s submit scripts/workflows/text_to_image.json --server %s --report scripts/report_short.lua"):format(H.moonpool, urls[1]))
    assert.equal(0, code, out)
    assert.matches("s on 127%S+, of it %d+%.%d s waiting; slowest: %w+ %d", out)
  end)

  it("progress.lua tells how far each job is, and takes previews", function()
    local dir = H.folder "previews"
    local out, code = run(servers(1, "--previews"), "progress.lua", "2", dir)
    assert.equal(0, code, out)
    assert.matches("job %w+:%s+%d+ %%, node %d+ at", out)
    local n, previews = out:match "(%d+) jobs, (%d+) previews"
    assert.equal("2", n)
    assert.is_true(tonumber(previews) > 0)
    assert.is_true(#moonpool.core.list_folder(dir) > 0)
  end)

  it("regression_gate.lua makes a baseline, passes, and fails when a server has become slower", function()
    local dir = H.folder "gate"
    local function gate(speed) return H.run(("GATE_SPEED=%d timeout 100 %s scripts/regression_gate.lua %s/base.jsonl 12 0.3"):format(speed, H.moonpool, dir)) end
    local out, code = gate(40)
    assert.same({ 0, true }, { code, out:find("12 runs are the baseline now", 1, true) ~= nil }, out)
    local lines = {}                                       -- a baseline a hundred times as fast, on whatever machine
    for line in io.lines(dir .. "/base.jsonl") do
      local x = json.decode(line)
      x.executionTime = x.executionTime / 100
      for _, n in ipairs(x.nodes) do n.duration = n.duration and n.duration / 100 end
      lines[#lines + 1] = json.encode(x)
    end
    H.write(dir .. "/base.jsonl", table.concat(lines, "\n") .. "\n")
    out, code = gate(40)
    assert.equal(1, code, out)
    assert.matches("rows are slower", out)
    H.write(dir .. "/base.jsonl", "nothing of ours\n")
    out, code = gate(40)
    assert.equal(2, code, out)
    assert.matches("nothing could be tested: 0 runs in the baseline", out)
  end)

  it("capacity.lua says how many clients a load needs", function()
    local dir = H.folder "capacity"
    H.run(("%s submit scripts/workflows/text_to_image.json --server %s --count 10 --profile-log %s/runs.jsonl"):format(H.moonpool, servers(1)[1], dir))
    local out, code = H.run(("%s scripts/capacity.lua %s/runs.jsonl 100000"):format(H.moonpool, dir))
    assert.equal(0, code, out)
    assert.matches("%d+ clients are enough for 100000 jobs an hour", out)
    assert.equal(4, select(2, out:gsub("p95%s+[%d.]+ s in all", "")))
  end)

  it("have no path of a machine in them", function()
    for _, name in ipairs(moonpool.core.list_folder "scripts") do
      if name:find "%.lua$" then assert.is_nil(H.read("scripts/" .. name):find(here, 1, true), name) end
    end
  end)
end)
