-- tests/spec/sim_spec.lua: the simulated server over real sockets, against sections 1 to 5 of comfyui-protocol.md.
-- At speed 100 a cost of 1000 ms is one of 10 ms; nothing here depends on how long anything takes.
local moonpool = require "moonpool"
local json = moonpool.json
local S = require "simkit"
local server, request, get, fetch, upload, picture, connect, submit, run = S.server, S.request, S.get, S.fetch, S.upload, S.picture, S.connect, S.submit, S.run
local next_message, read_until, everything, is_end, is_executing, short, shorts, only = S.next_message, S.read_until, S.everything, S.is_end, S.is_executing, S.short, S.shorts, S.only
local small, text_to_image, endless, endless_costs, occupy, interrupt, history_of = S.small, S.text_to_image, S.endless, S.endless_costs, S.occupy, S.interrupt, S.history_of
local BOUND = S.BOUND

-- Python's heapq over {number, id}: what the server's list looks like.
local heapq = {}
local function less(a, b) return a[1] ~= b[1] and a[1] < b[1] or a[1] == b[1] and a[2] < b[2] end
function heapq.down(h, start, at)
  local item = h[at]
  while at > start do
    local up = (at - 2) // 2 + 1
    if up < start or not less(item, h[up]) then break end
    h[at], at = h[up], up
  end
  h[at] = item
end
function heapq.push(h, item)
  h[#h + 1] = item
  heapq.down(h, 1, #h)
end
function heapq.up(h, at)
  local start, item = at, h[at]
  while 2 * at <= #h do
    local child = 2 * at
    if child + 1 <= #h and not less(h[child], h[child + 1]) then child = child + 1 end
    h[at], at = h[child], child
  end
  h[at] = item
  heapq.down(h, start, at)
end
function heapq.pop(h)
  local last = table.remove(h)
  if #h == 0 then return last end
  local first = h[1]
  h[1] = last
  heapq.up(h, 1)
  return first
end
function heapq.remove(h, index)
  table.remove(h, index)
  for i = #h // 2, 1, -1 do heapq.up(h, i) end
end

-- ---- messages of one job ----------------------------------------------------------------------------------------------

describe("sim: the messages of a job", function()
  it("normal run, 0.18.1", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    assert.are.same({
      "status 1", "status 1", "execution_start", "execution_cached", "progress_state", "executing 1", "progress_state",
      "progress_state", "executing 2", "progress_state", "progress_state", "executing 3", "executed 3", "progress_state",
      "execution_success", "status 0", "executing null",
    }, shorts(run(sim, ws, "a", small())))
  end)

  it("normal run, 2024-10: the same without progress_state", function()
    local sim <close> = server { version = "2024-10" }
    local ws <close> = connect(sim, "a")
    assert.are.same({
      "status 1", "status 1", "execution_start", "execution_cached", "executing 1", "executing 2", "executing 3", "executed 3",
      "execution_success", "status 0", "executing null",
    }, shorts(run(sim, ws, "a", small())))
  end)

  it("every message names the prompt; executing names the display node", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local list, id = run(sim, ws, "a", text_to_image())
    for _, m in ipairs(list) do
      if m.type ~= "status" then assert.are.equal(id, m.data.prompt_id, m.type) end
      if m.type == "executing" and m.data.node ~= json.null then assert.are.equal(m.data.node, m.data.display_node) end
      if m.type:find "^execution_" then assert.are.equal("integer", math.type(m.data.timestamp)) end
    end
  end)

  it("nodes run after what they need, outputs once", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local at, prompt = {}, text_to_image()
    for i, m in ipairs(run(sim, ws, "a", prompt)) do
      if m.type == "executing" and m.data.node ~= json.null then
        assert.is_nil(at[m.data.node], "once")
        at[m.data.node] = i
      end
    end
    for id, n in pairs(prompt) do
      assert.is_truthy(at[id], id)
      for _, v in pairs(n.inputs) do
        if type(v) == "table" then assert.is_true(at[v[1]] < at[id]) end
      end
    end
  end)

  it("an unconnected node never runs", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local prompt = small()
    prompt["9"] = { class_type = "EmptyImage", inputs = { width = 16, height = 16, batch_size = 1, color = 5 } }
    for _, m in ipairs(run(sim, ws, "a", prompt)) do assert.are_not.equal("executing 9", short(m)) end
  end)

  it("progress_state is a snapshot of all nodes touched so far", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local list, id = run(sim, ws, "a", small())
    local states = only(list, "progress_state")
    assert.are.same({ value = 0.0, max = 1.0, state = "running", node_id = "1", prompt_id = id, display_node_id = "1", parent_node_id = json.null, real_node_id = "1" },
      states[1].data.nodes["1"])
    assert.is_nil(states[1].data.nodes["2"])
    local last = states[#states].data.nodes
    for _, n in ipairs { "1", "2", "3" } do
      assert.are.equal("finished", last[n].state)
      assert.are.equal(last[n].max, last[n].value)
    end
  end)

  it("everything cached: executed with the old files, no executing, no new file", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local first = only(run(sim, ws, "a", small()), "executed")[1]
    local list = run(sim, ws, "a", small())
    assert.are.same({ "status 1", "status 1", "execution_start", "execution_cached 1,2,3", "executed 3", "progress_state", "execution_success", "status 0", "executing null" }, shorts(list))
    assert.are.same(first.data.output, only(list, "executed")[1].data.output)
    assert.are.equal(404, get(sim, "/view?filename=small_00002_.png").status)
    local state = only(list, "progress_state")[1].data.nodes
    assert.are.equal("finished", state["3"].state)
    assert.is_nil(state["1"])
  end)

  it("renumbered nodes and other titles are cached too", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    run(sim, ws, "a", small())
    local p = small()
    local renumbered = { ["11"] = p["1"], ["12"] = p["2"], ["13"] = p["3"] }
    p["2"].inputs.image[1], p["3"].inputs.images[1] = "11", "12"
    p["3"]._meta = { title = "Save it" }
    assert.are.same({ "execution_cached 11,12,13", "executed 13" }, { table.unpack(shorts(run(sim, ws, "a", renumbered)), 4, 5) })
  end)

  it("partly cached: runs from the changed node on", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    run(sim, ws, "a", text_to_image { seed = 1 })
    local list = shorts(run(sim, ws, "a", text_to_image { seed = 2 }), "progress_state")
    assert.are.same({ "execution_start", "execution_cached 4,5,6,7", "executing 3" }, { table.unpack(list, 3, 5) })
    assert.are.same({ "executing 8", "executing 9", "executed 9", "execution_success", "status 0", "executing null" }, { table.unpack(list, #list - 5) })
  end)

  it("the classic cache keeps only what the preceding prompt had", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    run(sim, ws, "a", small(1))
    run(sim, ws, "a", small(2))
    assert.are.equal("execution_cached", shorts(run(sim, ws, "a", small(1)))[4])
  end)

  it("a change of extra_data alone changes nothing", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    run(sim, ws, "a", small(), { extra_data = { mine = 1 } })
    assert.are.equal("execution_cached 1,2,3", shorts(run(sim, ws, "a", small(), { extra_data = { mine = 2 } }))[4])
  end)

  it("the order of inputs does not matter to the cache", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local tail = [["2":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}}}]]
    local cached
    for _, inputs in ipairs { [["width":16,"height":8,"batch_size":1,"color":1]], [["color":1,"batch_size":1,"height":8,"width":16]] } do
      local reply = request(sim, "POST", "/prompt", [[{"client_id":"a","prompt":{"1":{"class_type":"EmptyImage","inputs":{]] .. inputs .. "}}," .. tail)
      cached = shorts(read_until(ws, is_end(json.decode(reply.body).prompt_id)))[4]
    end
    assert.are.equal("execution_cached 1,2", cached)
  end)

  it("node ids may be any text", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local p = small()
    local odd = { ["12:5"] = p["1"], ['a"b\\ü'] = p["2"], [""] = p["3"] }
    p["2"].inputs.image[1], p["3"].inputs.images[1] = "12:5", 'a"b\\ü'
    assert.are.same({ "executing 12:5", 'executing a"b\\ü', "executing ", "executed " }, { table.unpack(shorts(run(sim, ws, "a", odd), "progress_state"), 5, 8) })
  end)

  it("with a delay each way the order is the same", function()
    local sim <close> = server { delay_ms = 2 }
    local ws <close> = connect(sim, "a")
    assert.are.same({
      "status 1", "status 1", "execution_start", "execution_cached", "executing 1", "executing 2", "executing 3", "executed 3",
      "execution_success", "status 0", "executing null",
    }, shorts(run(sim, ws, "a", small()), "progress_state"))
  end)

  it("after a stall everything is answered and told", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    sim:stall(30)
    assert.are.equal(1, #only(run(sim, ws, "a", small()), "execution_success"))
  end)

  it("sim:record counts", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    for i = 1, 2 do run(sim, ws, "a", small(i)) end
    run(sim, ws, "a", small(2))
    sim:fail { class = "EmptyImage" }
    run(sim, ws, "a", small(3))
    local r = sim:record()
    assert.are.same({ 4, 6, 1, 0, 3, 0 }, { r.prompts, r.executed, r.failed, r.interrupted, #r.gaps_ms, r.waiting })
  end)

  it("twins run once", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local prompt = small()
    prompt["4"] = { class_type = "EmptyImage", inputs = { width = 16, height = 16, batch_size = 1, color = 1 } }
    prompt["5"] = { class_type = "SaveImage", inputs = { images = { "4", 0 }, filename_prefix = "twin" } }
    local ran, twin = {}, nil
    for _, m in ipairs(run(sim, ws, "a", prompt)) do
      if m.type == "executing" then ran[m.data.node] = true end
      if m.type == "executed" and (m.data.node == "1" or m.data.node == "4") then twin = m end
    end
    assert.is_true((ran["1"] or ran["4"]) and not (ran["1"] and ran["4"]))
    assert.are.equal(json.null, twin.data.output)
  end)

  it("node error", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    sim:fail { class = "ImageInvert", type = "ValueError", message = "sizes do not match" }
    local list, id = run(sim, ws, "a", small())
    assert.are.same({ "execution_cached", "progress_state", "executing 1", "progress_state", "progress_state", "executing 2", "execution_error 2", "status 0", "executing null" },
      { table.unpack(shorts(list), 4) })
    local e = only(list, "execution_error")[1].data
    assert.are.equal("ImageInvert", e.node_type)
    assert.are.equal("ValueError", e.exception_type)
    assert.are.equal("sizes do not match\n", e.exception_message)
    assert.are.same({ "1" }, e.executed)
    assert.are.equal("table", type(e.traceback))
    assert.are.equal("table", type(e.current_inputs))
    assert.are.equal("table", type(e.current_outputs))
    local h = history_of(sim, id)
    assert.are.equal("error", h.status.status_str)
    assert.is_false(h.status.completed)
    assert.are.equal("execution_error", h.status.messages[3][1])
    assert.are.same(e, h.status.messages[3][2])
  end)

  it("node error: current_inputs has the failing node's inputs as lists", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    sim:fail { class = "SaveImage" }
    local e = only(run(sim, ws, "a", small(1, "broken")), "execution_error")[1].data
    assert.are.same({ "broken" }, e.current_inputs.filename_prefix)
    assert.are.equal(1, #e.current_inputs.images)
  end)

  it("node error on 2024-10: the message has no line end added", function()
    local sim <close> = server { version = "2024-10" }
    local ws <close> = connect(sim, "a")
    sim:fail { class = "ImageInvert", message = "sizes do not match" }
    assert.are.equal("sizes do not match", only(run(sim, ws, "a", small()), "execution_error")[1].data.exception_message)
  end)

  it("a failed job keeps the outputs made before, and its nodes stay cached", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local prompt = small()
    prompt["4"] = { class_type = "ImageScale", inputs = { image = { "2", 0 }, upscale_method = "bilinear", width = 32, height = 32, crop = "disabled" } }
    prompt["5"] = { class_type = "SaveImage", inputs = { images = { "4", 0 }, filename_prefix = "late" } }
    sim:fail { class = "ImageScale" }
    local list, id = run(sim, ws, "a", prompt)
    assert.are.equal("4", only(list, "execution_error")[1].data.node_id)
    if #only(list, "executed") == 1 then assert.are.equal("small_00001_.png", history_of(sim, id).outputs["3"].images[1].filename) end
    local again = run(sim, ws, "a", prompt)
    assert.is_truthy(shorts(again)[4]:find "^execution_cached 1,2")
    assert.are.equal(1, #only(again, "execution_success"))
  end)

  it("out of memory: the words, models unloaded, the next job reuses what was done", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    sim:fail { class = "VAEDecode", type = "torch.OutOfMemoryError", message = "CUDA out of memory." }
    local list = run(sim, ws, "a", text_to_image())
    local e = only(list, "execution_error")[1].data
    assert.are.equal("torch.OutOfMemoryError", e.exception_type)
    assert.is_truthy(e.exception_message:find("CUDA out of memory.", 1, true))
    local d = fetch(sim, "/system_stats").devices[1]
    assert.are.equal(d.vram_total, d.vram_free)
    assert.are.equal("execution_cached 3,4,5,6,7", shorts(run(sim, ws, "a", text_to_image()))[4])
  end)

  it("out of memory on 0.18.1: the message carries the advice", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    sim:fail { class = "VAEDecode", type = "torch.OutOfMemoryError", message = "CUDA out of memory." }
    assert.matches("ran out of memory on your GPU", only(run(sim, ws, "a", text_to_image()), "execution_error")[1].data.exception_message, 1, true)
  end)

  it("sim:fail counts its times, and without a class hits any node", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    sim:fail { times = 2 }
    assert.are.equal(1, #only(run(sim, ws, "a", small()), "execution_error"))
    assert.are.equal(1, #only(run(sim, ws, "a", small()), "execution_error"))
    assert.are.equal(0, #only(run(sim, ws, "a", small()), "execution_error"))
  end)
end)

describe("sim: progress", function()
  local costs = { KSampler = { ms = 0, step_ms = 1000 }, CheckpointLoaderSimple = 1, CLIPTextEncode = 1, VAEDecode = 1, SaveImage = 1 }
  local function values(list)
    local v = {}
    for i, m in ipairs(only(list, "progress")) do v[i] = m.data.value end
    return v
  end

  it("is thinned on 0.18.1: the first, the last, and one in 100 ms", function()
    local sim <close> = server { costs = costs }
    local ws <close> = connect(sim, "a")
    local list = run(sim, ws, "a", text_to_image { steps = 50 })
    assert.are.same({ 1, 11, 21, 31, 41, 50 }, values(list))
    local seven = 2 * 7                            -- start and end of seven nodes, and one for each report
    assert.are.equal(seven + 6, #only(list, "progress_state"))
  end)

  it("is whole on 2024-10, without progress_state", function()
    local sim <close> = server { version = "2024-10", costs = costs }
    local ws <close> = connect(sim, "a")
    local list = run(sim, ws, "a", text_to_image { steps = 50 })
    assert.are.equal(50, #values(list))
    assert.are.equal(0, #only(list, "progress_state"))
  end)

  it("is whole with previews", function()
    local sim <close> = server { costs = costs }
    local ws <close> = connect(sim, "a")
    local list = run(sim, ws, "a", text_to_image { steps = 50 }, { extra_data = { preview_method = "latent2rgb" } })
    assert.are.equal(50, #values(list))
    assert.are.equal(50, #only(list, "binary"))
  end)

  it("names value, max, node", function()
    local sim <close> = server { costs = costs }
    local ws <close> = connect(sim, "a")
    local list, id = run(sim, ws, "a", text_to_image { steps = 1 })
    assert.are.same({ value = 1, max = 1, prompt_id = id, node = "3" }, only(list, "progress")[1].data)
  end)

  it("of a denoised run counts its own steps", function()
    local sim <close> = server { version = "2024-10", costs = costs }
    local ws <close> = connect(sim, "a")
    local p = text_to_image { steps = 20 }
    p["3"].inputs.denoise = 0.5
    assert.are.equal(10, #values(run(sim, ws, "a", p)))
  end)
end)

describe("sim: previews", function()
  local flags = json.encode { type = "feature_flags", data = { supports_preview_metadata = true } }
  local latent = { extra_data = { preview_method = "latent2rgb" } }

  it("without flags are type 1, after progress", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local list = run(sim, ws, "a", text_to_image { steps = 2 }, latent)
    local text = table.concat(shorts(list), " ")
    assert.is_truthy(text:find("executing 3 progress_state progress 1/2 binary 1 progress_state progress 2/2 binary 1 progress_state", 1, true), text)
    local kind, format, at = string.unpack(">I4I4", only(list, "binary")[1].data)
    assert.are.same({ 1, 1 }, { kind, format })
    assert.are.equal("\xff\xd8\xff", only(list, "binary")[1].data:sub(at, at + 2))
    assert.are.equal("\xff\xd9", only(list, "binary")[1].data:sub(-2))
  end)

  it("with flags are type 4, before progress, and name the node", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    ws:send(flags)
    assert.are.equal("feature_flags", next_message(ws).type)
    local list, id = run(sim, ws, "a", text_to_image { steps = 2 }, latent)
    local text = table.concat(shorts(list), " ")
    assert.is_truthy(text:find("executing 3 progress_state binary 4 progress 1/2 progress_state binary 4 progress 2/2 progress_state", 1, true), text)
    local data = only(list, "binary")[1].data
    local kind, meta, at = string.unpack(">I4s4", data)
    assert.are.equal(4, kind)
    assert.are.same({ node_id = "3", prompt_id = id, display_node_id = "3", parent_node_id = json.null, real_node_id = "3", image_type = "image/jpeg" }, json.decode(meta))
    assert.are.equal("\xff\xd8\xff", data:sub(at, at + 2))
  end)

  it("are off without being asked for, and with none", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    assert.are.equal(0, #only(run(sim, ws, "a", text_to_image { seed = 1 }), "binary"))
    assert.are.equal(0, #only(run(sim, ws, "a", text_to_image { seed = 2 }, { extra_data = { preview_method = "none" } }), "binary"))
  end)

  it("of a server that has them on can be switched off for a job on 0.18.1 only", function()
    for version, n in pairs { ["0.18.1"] = 0, ["2024-10"] = 4 } do
      local sim <close> = server { version = version, previews = true }
      local ws <close> = connect(sim, "a")
      assert.are.equal(n, #only(run(sim, ws, "a", text_to_image(), { extra_data = { preview_method = "none" } }), "binary"), version)
    end
  end)

  it("flags are forgotten with the connection", function()
    local sim <close> = server { costs = endless_costs }
    do
      local ws <close> = connect(sim, "a")
      ws:send(flags)
      next_message(ws)
    end
    local other <close> = connect(sim, "other")
    submit(sim, small(), "other")
    read_until(other, function(m) return m.type == "execution_success" end)
    local ws <close> = connect(sim, "a")
    local id = submit(sim, endless(), "a", latent)
    local list = read_until(ws, function(m) return m.type == "binary" end)
    assert.are.equal("binary 1", short(list[#list]))
    interrupt(sim, id)
  end)
end)

-- ---- feature flags ----------------------------------------------------------------------------------------------------

describe("sim: feature flags", function()
  local function flags(on) return json.encode { type = "feature_flags", data = { supports_preview_metadata = on } } end
  local function has_previews_4(sim, ws, sid)
    return short(only(run(sim, ws, sid, text_to_image { steps = 1, seed = math.random(1e9) }, { extra_data = { preview_method = "auto" } }), "binary")[1]) == "binary 4"
  end

  it("are answered with those of GET /features", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    ws:send(flags(true))
    assert.are.same(fetch(sim, "/features"), next_message(ws).data)
  end)

  it("count in the first message only: a second one is ignored", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    ws:send(flags(true))
    next_message(ws)
    ws:send(flags(false))
    assert.is_true(has_previews_4(sim, ws, "a"))
  end)

  it("after another JSON object are ignored without a word", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    ws:send '{"type": "hello"}'
    ws:send(flags(true))
    local list = run(sim, ws, "a", text_to_image { steps = 1 }, { extra_data = { preview_method = "auto" } })
    assert.are.equal(0, #only(list, "feature_flags"))
    assert.are.equal("binary 1", short(only(list, "binary")[1]))
  end)

  it("after text that is no JSON object still count", function()
    for _, first in ipairs { "this is not JSON", "[1,2]", "5" } do
      local sim <close> = server()
      local ws <close> = connect(sim, "a")
      ws:send(first)
      ws:send(flags(true))
      assert.are.equal("feature_flags", next_message(ws).type)
      assert.is_true(has_previews_4(sim, ws, "a"))
    end
  end)

  it("want the literal true", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    ws:send(flags(1))
    next_message(ws)
    assert.is_false(has_previews_4(sim, ws, "a"))
  end)

  it("mean nothing to 2024-10, and /features is 404 there", function()
    local sim <close> = server { version = "2024-10", previews = true }
    local ws <close> = connect(sim, "a")
    ws:send(flags(true))
    local list = run(sim, ws, "a", text_to_image())
    assert.are.equal(0, #only(list, "feature_flags"))
    assert.are.equal("binary 1", short(only(list, "binary")[1]))
    assert.are.equal(404, get(sim, "/features").status)
  end)
end)

-- ---- interrupting, deleting ---------------------------------------------------------------------------------------------

describe("sim: interrupt", function()
  it("while running ends the job at the next report", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local id = occupy(sim, ws, "a")
    local reply = interrupt(sim)
    assert.are.equal(200, reply.status)
    assert.are.equal("", reply.body)
    local list = read_until(ws, is_end(id))
    assert.are.same({ "execution_interrupted 3", "status 0", "executing null" }, { table.unpack(shorts(list), #list - 2) })
    local m = only(list, "execution_interrupted")[1].data
    assert.are.equal("KSampler", m.node_type)
    table.sort(m.executed)
    assert.are.same({ "4", "5", "6", "7" }, m.executed)
    assert.are.equal(0, #only(list, "execution_error"))
    local h = history_of(sim, id)
    assert.are.equal("error", h.status.status_str)
    assert.is_false(h.status.completed)
    assert.are.equal("execution_interrupted", h.status.messages[#h.status.messages][1])
  end)

  it("of its own id", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local id = occupy(sim, ws, "a")
    interrupt(sim, id)
    assert.are.equal(1, #only(read_until(ws, is_end(id)), "execution_interrupted"))
  end)

  it("with a malformed body interrupts, with a list is 500", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local id = occupy(sim, ws, "a")
    assert.are.equal(500, request(sim, "POST", "/interrupt", "[]").status)
    assert.are.equal(200, request(sim, "POST", "/interrupt", "{").status)
    assert.are.equal(1, #only(read_until(ws, is_end(id)), "execution_interrupted"))
  end)

  it("of another or an unknown id does nothing", function()
    local sim <close> = server { costs = { KSampler = { ms = 0, step_ms = 11000 } } }
    local ws <close> = connect(sim, "a")
    local id = submit(sim, text_to_image { steps = 3 }, "a")
    local queued = submit(sim, small(), "a")
    read_until(ws, is_executing "3")
    assert.are.equal(200, interrupt(sim, queued).status)
    assert.are.equal(200, interrupt(sim, "00000000-0000-4000-8000-000000000000").status)
    assert.are.equal(1, #only(read_until(ws, is_end(id)), "execution_success"))
    assert.are.equal(1, #only(read_until(ws, is_end(queued)), "execution_success"))
    assert.are.equal(0, sim:record().interrupted)
  end)

  it("of another id hits whatever runs on 2024-10", function()
    local sim <close> = server { version = "2024-10", costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local id = occupy(sim, ws, "a")
    interrupt(sim, "00000000-0000-4000-8000-000000000000")
    assert.are.equal(1, #only(read_until(ws, is_end(id)), "execution_interrupted"))
  end)

  it("while idle does not hit the next job", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    assert.are.equal(200, interrupt(sim).status)
    assert.are.equal(1, #only(run(sim, ws, "a", small()), "execution_success"))
  end)

  it("during a node that does not look names the next one", function()
    local sim <close> = server { costs = { EmptyImage = 20000 } }
    local ws <close> = connect(sim, "a")
    local id = submit(sim, small(), "a")
    read_until(ws, is_executing "1")
    interrupt(sim)
    local m = only(read_until(ws, is_end(id)), "execution_interrupted")[1].data
    assert.are.equal("2", m.node_id)
    assert.are.same({ "1" }, m.executed)
  end)

  it("during a last node that does not look: a success", function()
    local sim <close> = server { costs = { SaveImage = 20000 } }
    local ws <close> = connect(sim, "a")
    local id = submit(sim, small(), "a")
    read_until(ws, is_executing "3")
    interrupt(sim)
    assert.are.equal(1, #only(read_until(ws, is_end(id)), "execution_success"))
    assert.are.equal("success", history_of(sim, id).status.status_str)
    assert.are.equal(1, #only(run(sim, ws, "a", small(2)), "execution_success"))
  end)
end)

describe("sim: POST /queue", function()
  it("deletes a queued job without a trace", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local first = occupy(sim, ws, "a")
    local gone, stays = submit(sim, small(1), "a"), submit(sim, small(2), "a")
    local reply = request(sim, "POST", "/queue", { delete = { gone } })
    assert.are.same({ 200, "" }, { reply.status, reply.body })
    interrupt(sim)
    local list = read_until(ws, is_end(stays))
    local statuses = {}
    for _, m in ipairs(list) do
      assert.are_not.equal(gone, m.data and m.data.prompt_id)
      if m.type == "status" then statuses[#statuses + 1] = m.data.status.exec_info.queue_remaining end
    end
    assert.are.same({ 2, 3, 2, 1, 1, 0 }, statuses)      -- queued twice, deleted, first done, popped, done
    assert.are.same({}, fetch(sim, "/history/" .. gone))
    assert.is_truthy(history_of(sim, first))
  end)

  it("deleting the only queued one says status twice", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local first = occupy(sim, ws, "a")
    local gone = submit(sim, small(), "a")
    request(sim, "POST", "/queue", { delete = { gone } })
    interrupt(sim)
    assert.are.same({ "status 2", "status 1", "status 1", "status 0" }, shorts(only(read_until(ws, is_end(first)), "status")))
  end)

  it("cannot delete the running one or an unknown one: 200, no message", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local id = occupy(sim, ws, "a")
    assert.are.equal(200, request(sim, "POST", "/queue", { delete = { id, "nope" } }).status)
    assert.are.equal(id, fetch(sim, "/queue").queue_running[1][2])
    interrupt(sim)
    assert.are.same({ "status 0" }, shorts(only(read_until(ws, is_end(id)), "status")))
  end)

  it("clear empties what waits, with one status", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local id = occupy(sim, ws, "a")
    for i = 1, 3 do submit(sim, small(i), "a") end
    assert.are.equal(200, request(sim, "POST", "/queue", { clear = true }).status)
    local q = fetch(sim, "/queue")
    assert.are.same({ 1, 0 }, { #q.queue_running, #q.queue_pending })
    interrupt(sim)
    assert.are.same({ "status 2", "status 3", "status 4", "status 1", "status 0" }, shorts(only(read_until(ws, is_end(id)), "status")))
  end)
end)

-- ---- the queue --------------------------------------------------------------------------------------------------------------

describe("sim: the queue", function()
  local function numbers(sim)
    local list = {}
    for i, item in ipairs(fetch(sim, "/queue").queue_pending) do list[i] = item[1] end
    return list
  end

  it("is a heap over (number, id), as Python's", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    occupy(sim, ws, "a")
    local h, model = {}, {}
    for i, n in ipairs { 136, -137, 138, -139, 0.5, 140, 3, 3, -5, 77, 2, 1 } do
      local id = submit(sim, small(i), "a", { number = n })
      heapq.push(h, { n + 0.0, id })
    end
    for i, item in ipairs(h) do model[i] = item[1] end
    assert.are.same(model, numbers(sim))
    assert.are.equal(-139, model[1])
  end)

  it("is the recorded list for the recorded numbers", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    occupy(sim, ws, "a")
    for i, n in ipairs { 136, -137, 138, -139, 0.5, 140 } do submit(sim, small(i), "a", { number = n }) end
    assert.are.same({ -139.0, -137.0, 138.0, 136.0, 0.5, 140.0 }, numbers(sim))
  end)

  it("after a delete is what Python's heapify makes of the rest", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    occupy(sim, ws, "a")
    local h = {}
    for i, n in ipairs { 10, 40, 20, 60, 50, 30, 25, 70, 65, 55 } do
      heapq.push(h, { n + 0.0, (submit(sim, small(i), "a", { number = n })) })
    end
    for _, index in ipairs { 2, 5, 1 } do
      request(sim, "POST", "/queue", { delete = { h[index][2] } })
      heapq.remove(h, index)
      local model = {}
      for i, item in ipairs(h) do model[i] = item[1] end
      assert.are.same(model, numbers(sim), "after deleting entry " .. index)
    end
  end)

  it("runs by number, front first and the last front before the earlier one", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local first = occupy(sim, ws, "a")
    local plain = submit(sim, small(1), "a")
    local front1, a1 = submit(sim, small(2), "a", { front = true })
    local front2, a2 = submit(sim, small(3), "a", { front = true })
    local half, a3 = submit(sim, small(4), "a", { number = 0.5 })
    local last = submit(sim, small(5), "a", { front = false })
    assert.are.same({ -2, -3, 0.5 }, { a1.number, a2.number, a3.number })
    interrupt(sim)
    local started = {}
    for _, m in ipairs(read_until(ws, is_end(last))) do
      if m.type == "execution_start" then started[#started + 1] = m.data.prompt_id end
    end
    assert.are.same({ front2, front1, half, plain, last }, started)
    assert.is_truthy(history_of(sim, first))
  end)

  it("ties go by id", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    occupy(sim, ws, "a")
    for _, id in ipairs { "c", "a", "b" } do submit(sim, small(1, id), "x", { number = 7, prompt_id = id }) end
    interrupt(sim)
    local text
    repeat
      next_message(ws)
      text = get(sim, "/history").body
    until text:find '"c": {"prompt"'
    assert.is_true(text:find '"a": {"prompt"' < text:find '"b": {"prompt"' and text:find '"b": {"prompt"' < text:find '"c": {"prompt"')
  end)

  it("next job: its status comes after the end of the one before", function()
    local sim <close> = server { costs = { EmptyImage = 5000 } }
    local ws <close> = connect(sim, "a")
    local one, two = submit(sim, small(1), "a"), submit(sim, small(2), "a")
    local list = read_until(ws, is_end(two))
    for i, m in ipairs(list) do
      if is_end(one)(m) then
        assert.are.same({ "execution_success", "status 1", "executing null", "status 1", "execution_start" }, { table.unpack(shorts(list), i - 2, i + 2) })
        return
      end
    end
    error "the first job did not end"
  end)

  it("numbers: the server's are integers, the client's come back as floats, texts are read", function()
    local sim <close> = server()
    local _, a = submit(sim, small(), "a")
    local _, b = submit(sim, small(), "a", { number = 5 })
    local _, c = submit(sim, small(), "a", { number = "7" })
    assert.are.equal("integer", math.type(a.number))
    assert.are.equal("float", math.type(b.number))
    assert.are.equal(5.0, b.number)
    assert.are.equal(7.0, c.number)
  end)

  it("numbers: a given number does not advance the counter, a refused prompt does", function()
    local sim <close> = server()
    local function number(options) return select(2, submit(sim, small(), "a", options)).number end
    assert.are.equal(0, number())
    number { number = 5 }
    assert.are.equal(1, number())
    assert.are.equal(400, request(sim, "POST", "/prompt", { prompt = { ["1"] = small()["1"] } }).status)
    assert.are.equal(3, number())
  end)

  it("numbers: malformed JSON does not advance the counter", function()
    local sim <close> = server()
    request(sim, "POST", "/prompt", "{")
    assert.are.equal(0, select(2, submit(sim, small(), "a")).number)
  end)

  it("shows number, id, prompt, extra_data with client and time, outputs", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    occupy(sim, ws, "a")
    local id = submit(sim, small(), "a", { extra_data = { mine = { tag = 7 }, api_key_comfy_org = "secret" } })
    local item = fetch(sim, "/queue").queue_pending[1]
    assert.are.equal(5, #item)
    assert.are.same({ 1, id, small() }, { item[1], item[2], item[3] })
    assert.are.equal("a", item[4].client_id)
    assert.are.same({ tag = 7 }, item[4].mine)
    assert.is_nil(item[4].api_key_comfy_org)
    assert.are.equal("integer", math.type(item[4].create_time))
    assert.are.same({ "3" }, item[5])
    assert.are.equal(2, fetch(sim, "/prompt").exec_info.queue_remaining)
  end)

  it("shows keys on 2024-10, and no create_time", function()
    local sim <close> = server { version = "2024-10", costs = endless_costs }
    local ws <close> = connect(sim, "a")
    occupy(sim, ws, "a")
    submit(sim, small(), "a", { extra_data = { api_key_comfy_org = "secret" } })
    local item = fetch(sim, "/queue").queue_pending[1]
    assert.are.same({ api_key_comfy_org = "secret", client_id = "a" }, item[4])
  end)
end)

describe("sim: ids of prompts", function()
  it("are the client's on 0.18.1, any text, and may be used again", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    for round = 1, 2 do
      local _, id = run(sim, ws, "a", small(round), { prompt_id = "aaaaaaaa-0000-4000-8000-000000000001" })
      assert.are.equal("aaaaaaaa-0000-4000-8000-000000000001", id)
    end
    local h = fetch(sim, "/history")
    assert.are.equal("aaaaaaaa-0000-4000-8000-000000000001", next(h))
    assert.is_nil(next(h, (next(h))))
    assert.are.equal(2, h["aaaaaaaa-0000-4000-8000-000000000001"].prompt[3]["1"].inputs.color)
  end)

  it("of other texts are found in the history, percent-encoded", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    run(sim, ws, "a", small(), { prompt_id = "my job/1" })
    assert.is_truthy(fetch(sim, "/history/my%20job%2F1")["my job/1"])
  end)

  it("of the client are ignored on 2024-10", function()
    local sim <close> = server { version = "2024-10" }
    local id = submit(sim, small(), "a", { prompt_id = "aaaaaaaa-0000-4000-8000-000000000001" })
    assert.are_not.equal("aaaaaaaa-0000-4000-8000-000000000001", id)
    assert.are.equal(36, #id)
  end)

  it("twice in the queue with the same number: 500, and it runs all the same", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    occupy(sim, ws, "a")
    local body = { prompt = small(), client_id = "a", prompt_id = "same", number = 50 }
    assert.are.equal(200, request(sim, "POST", "/prompt", body).status)
    assert.are.equal(500, request(sim, "POST", "/prompt", body).status)
    assert.are.equal(2, #fetch(sim, "/queue").queue_pending)
  end)

  it("null becomes None", function()
    local sim <close> = server()
    assert.are.equal("None", (submit(sim, small(), "a", { prompt_id = json.null })))
  end)
end)

describe("sim: partial_execution_targets", function()
  local function two()
    local p = small()
    p["4"] = { class_type = "PreviewImage", inputs = { images = { "1", 0 } } }
    return p
  end

  it("runs only the named outputs", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local list = run(sim, ws, "a", two(), { partial_execution_targets = { "4" } })
    assert.are.same({ "executing 1", "executing 4", "executed 4" }, { table.unpack(shorts(list, "progress_state"), 5, 7) })
    assert.are.equal(1, #only(list, "executed"))
  end)

  it("that are no outputs are refused", function()
    local sim <close> = server()
    local reply = request(sim, "POST", "/prompt", { prompt = two(), partial_execution_targets = { "2" } })
    assert.are.equal(400, reply.status)
    assert.are.equal("prompt_no_outputs", json.decode(reply.body).error.type)
  end)
end)

-- ---- who sees what --------------------------------------------------------------------------------------------------------------

describe("sim: sockets", function()
  it("first message: status with the sid", function()
    local sim <close> = server()
    local ws <close>, first = connect(sim, "pool-7")
    assert.is_truthy(ws)
    assert.are.same({ status = { exec_info = { queue_remaining = 0 } }, sid = "pool-7" }, first.data)
  end)

  it("without or with an empty clientId the server invents one of 32 hex digits", function()
    local sim <close> = server()
    local a <close>, one = connect(sim)
    local b <close>, two = connect(sim, "")
    assert.is_truthy(a and b)
    for _, m in ipairs { one, two } do
      assert.matches("^%x+$", m.data.sid)
      assert.are.equal(32, #m.data.sid)
    end
    assert.are_not.equal(one.data.sid, two.data.sid)
  end)

  it("a percent-encoded clientId is the decoded text", function()
    local sim <close> = server()
    local ws <close>, first = connect(sim, "my%20pool%2F%C3%BC")
    assert.are.equal("my pool/ü", first.data.sid)
    assert.are.equal(1, #only(run(sim, ws, "my pool/ü", small()), "execution_success"))
  end)

  it("two clients: own messages to the own one, status to both", function()
    local sim <close> = server()
    local a <close> = connect(sim, "a")
    local b <close> = connect(sim, "b")
    run(sim, a, "a", text_to_image(), { extra_data = { preview_method = "auto" } })
    assert.are.same({ "status 1", "status 1", "status 0" }, shorts(everything(b)))
  end)

  it("an unknown client_id: status only", function()
    local sim <close> = server()
    local a <close> = connect(sim, "a")
    submit(sim, text_to_image(), "elsewhere")
    local list = read_until(a, function(m) return short(m) == "status 0" end)
    assert.are.same({ "status 1", "status 1", "status 0" }, shorts(list))
  end)

  it("a job without client_id on 0.18.1: everybody gets progress_state, progress, type 1, and no start or end", function()
    local sim <close> = server()
    local a <close> = connect(sim, "a")
    local b <close> = connect(sim, "b")
    a:send(json.encode { type = "feature_flags", data = { supports_preview_metadata = true } })
    next_message(a)
    local id = submit(sim, text_to_image { steps = 2 }, nil, { extra_data = { preview_method = "auto" } })
    for _, ws in ipairs { a, b } do
      local list = read_until(ws, function(m) return short(m) == "status 0" end)
      assert.are.same({ "status 1", "status 1", "progress 1/2", "binary 1", "progress 2/2", "binary 1", "status 0" }, shorts(list, "progress_state"))
      assert.are.equal(16, #only(list, "progress_state"))
      assert.are.equal("3", only(list, "progress")[1].data.node)
    end
    assert.are.equal("success", history_of(sim, id).status.status_str)
    assert.is_nil(history_of(sim, id).prompt[4].client_id)
  end)

  it("a job without client_id on 2024-10: progress without a node", function()
    local sim <close> = server { version = "2024-10" }
    local a <close> = connect(sim, "a")
    submit(sim, text_to_image { steps = 2 })
    local list = read_until(a, function(m) return short(m) == "status 0" end)
    assert.are.same({ "status 1", "status 1", "progress 1/2", "progress 2/2", "status 0" }, shorts(list))
    assert.are.equal(json.null, only(list, "progress")[1].data.node)
  end)

  it("a job without client_id: its error is told to nobody, its interruption to all", function()
    local sim <close> = server { costs = endless_costs }
    local a <close> = connect(sim, "a")
    sim:fail { class = "EmptyImage" }
    submit(sim, small())
    assert.are.same({ "status 1", "status 1", "status 0" }, shorts(read_until(a, function(m) return short(m) == "status 0" end), "progress_state"))
    submit(sim, endless())
    read_until(a, function(m) return m.type == "progress" end)
    interrupt(sim)
    local list = shorts(read_until(a, function(m) return short(m) == "status 0" end), "progress_state")
    assert.are.same({ "execution_interrupted 3", "status 0" }, { table.unpack(list, #list - 1) })
  end)

  it("same sid twice: only the newer one hears anything", function()
    local sim <close> = server()
    local old <close> = connect(sim, "twice")
    local new <close> = connect(sim, "twice")
    assert.are.equal(1, #only(run(sim, new, "twice", small()), "execution_success"))
    assert.are.same({}, everything(old))
  end)

  it("the orphan trap: when the older one closes, the newer one goes deaf, status included", function()
    local sim <close> = server()
    local old = connect(sim, "twice")
    local new <close> = connect(sim, "twice")
    local witness <close> = connect(sim, "witness")
    old:close(1000, "")
    assert.are.same({ nil, "closed" }, { nil, select(2, old:receive(BOUND)).kind })
    local id = submit(sim, small(), "twice")
    read_until(witness, function(m) return short(m) == "status 0" end)
    assert.is_truthy(history_of(sim, id))
    assert.are.same({}, everything(new))
    local third <close> = connect(sim, "twice")
    assert.are.equal(1, #only(run(sim, third, "twice", small(2)), "execution_success"))
  end)

  it("closed newer one: the older one stays deaf", function()
    local sim <close> = server()
    local old <close> = connect(sim, "twice")
    local new = connect(sim, "twice")
    new:close(1000, "")
    assert.are.equal("closed", select(2, new:receive(BOUND)).kind)
    local witness <close> = connect(sim, "witness")
    submit(sim, small(), "twice")
    read_until(witness, function(m) return short(m) == "status 0" end)
    assert.are.same({}, everything(old))
  end)

  it("reconnect in mid-job: executing without prompt_id, then what comes next", function()
    local sim <close> = server { costs = endless_costs }
    local ws = connect(sim, "a")
    local id = occupy(sim, ws, "a")
    ws:close(1000, "")
    ws:receive(BOUND)
    local again <close>, first = connect(sim, "a")
    assert.are.same({ status = { exec_info = { queue_remaining = 1 } }, sid = "a" }, first.data)
    assert.are.same({ type = "executing", data = { node = "3" } }, next_message(again))
    interrupt(sim, id)
    local list = shorts(read_until(again, is_end(id)))
    assert.are.same({ "execution_interrupted 3", "status 0", "executing null" }, { table.unpack(list, #list - 2) })
  end)

  it("an onlooker who connects in mid-job gets no executing", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local id = occupy(sim, ws, "a")
    local b <close> = connect(sim, "b")
    interrupt(sim, id)
    read_until(ws, is_end(id))
    assert.are.same({ "status 0" }, shorts(everything(b)))
  end)

  it("a submitter who is gone: the job runs to its end", function()
    local sim <close> = server { costs = { EmptyImage = 5000 } }
    local ws = connect(sim, "a")
    local witness <close> = connect(sim, "witness")
    local id = submit(sim, small(), "a")
    read_until(ws, is_executing "1")
    ws:close(1000, "")
    read_until(witness, function(m) return short(m) == "status 0" end)
    assert.are.equal("success", history_of(sim, id).status.status_str)
    assert.are.equal(3, #history_of(sim, id).status.messages)
  end)

  it("sim:drop cuts all sockets; work goes on", function()
    local sim <close> = server { costs = { EmptyImage = 5000 } }
    local ws <close> = connect(sim, "a")
    local id = submit(sim, small(), "a")
    read_until(ws, is_executing "1")
    sim:drop()
    local data, err
    repeat data, err = ws:receive(BOUND) until not data
    assert.are.equal("closed", err.kind)
    assert.are.equal(1006, err.code)
    local again <close> = connect(sim, "other")
    local list = fetch(sim, "/queue").queue_running
    if #list > 0 then read_until(again, function(m) return short(m) == "status 0" end) end
    assert.are.equal("success", history_of(sim, id).status.status_str)
  end)

  it("sim:restart: queue, history, numbers and cache start from nothing, outputs stay", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local _, done = run(sim, ws, "a", small())
    occupy(sim, ws, "a")
    submit(sim, small(3), "a")
    sim:restart(0)
    local data, err
    repeat data, err = ws:receive(BOUND) until not data
    assert.are.equal("closed", err.kind)
    local again <close>, first = connect(sim, "a")
    assert.are.equal(0, first.data.status.exec_info.queue_remaining)
    assert.are.same({}, fetch(sim, "/history/" .. done))
    local q = fetch(sim, "/queue")
    assert.are.same({ 0, 0 }, { #q.queue_running, #q.queue_pending })
    assert.are.equal(200, get(sim, "/view?filename=small_00001_.png").status)
    local _, answer = submit(sim, small(), "a")
    assert.are.equal(0, answer.number)
    local list = read_until(again, is_end(answer.prompt_id))
    assert.are.equal("execution_cached", shorts(list)[4])
    assert.are.equal("small_00002_.png", only(list, "executed")[1].data.output.images[1].filename)
  end)

  it("sim:restart wipes the temp folder", function()
    local sim <close> = server()
    local p = small()
    p["3"] = { class_type = "PreviewImage", inputs = { images = { "2", 0 } } }
    local file
    do
      local ws <close> = connect(sim, "a")
      file = only(run(sim, ws, "a", p), "executed")[1].data.output.images[1].filename
    end
    assert.are.equal(200, get(sim, "/view?type=temp&filename=" .. file).status)
    sim:restart(0)
    local again <close> = connect(sim, "a")         -- a kept-alive connection has been cut meanwhile
    assert.is_truthy(again)
    assert.are.equal(404, get(sim, "/view?type=temp&filename=" .. file).status)
  end)

  it("sim:wedge: accepted, none runs, interrupt does nothing", function()
    local sim <close> = server()
    sim:wedge()
    local ws <close> = connect(sim, "a")
    submit(sim, small(1), "a")
    submit(sim, small(2), "a")
    interrupt(sim)
    assert.are.equal(2, fetch(sim, "/prompt").exec_info.queue_remaining)
    assert.are.equal("status 1", short(next_message(ws)))
    assert.are.equal("status 2", short(next_message(ws)))
    assert.are.equal(0, sim:record().prompts)
  end)

  it("GET /ws without an upgrade is 400", function()
    local sim <close> = server()
    assert.are.equal(400, get(sim, "/ws").status)
  end)

  it("/api/ws works as /ws", function()
    local sim <close> = server()
    local ws <close>, first = connect(sim, "a", "/api/ws")
    assert.are.equal("a", first.data.sid)
    assert.are.equal(1, #only(run(sim, ws, "a", small()), "execution_success"))
  end)
end)

-- ---- history --------------------------------------------------------------------------------------------------------------------

describe("sim: history", function()
  it("an entry has prompt, outputs, meta, status", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local list, id = run(sim, ws, "a", small(), { extra_data = { mine = 1 } })
    local h = history_of(sim, id)
    assert.are.same({ 0, id, small() }, { h.prompt[1], h.prompt[2], h.prompt[3] })
    assert.are.equal("a", h.prompt[4].client_id)
    assert.are.equal(1, h.prompt[4].mine)
    assert.are.same({ "3" }, h.prompt[5])
    assert.are.same({ ["3"] = { images = { { filename = "small_00001_.png", subfolder = "", type = "output" } } } }, h.outputs)
    assert.are.same({ ["3"] = { node_id = "3", display_node = "3", parent_node = json.null, real_node_id = "3" } }, h.meta)
    assert.are.equal("success", h.status.status_str)
    assert.is_true(h.status.completed)
    local want = {}
    for _, m in ipairs(list) do
      if m.type:find "^execution_" then want[#want + 1] = { m.type, m.data } end
    end
    assert.are.same(want, h.status.messages)
  end)

  it("extra_data there has create_time and no keys", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local _, id = run(sim, ws, "a", small(), { extra_data = { api_key_comfy_org = "secret", auth_token_comfy_org = "secret" } })
    local extra = history_of(sim, id).prompt[4]
    assert.are.equal("integer", math.type(extra.create_time))
    assert.is_nil(extra.api_key_comfy_org)
    assert.is_nil(extra.auth_token_comfy_org)
  end)

  it("a given number is kept exactly", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local _, id = run(sim, ws, "a", small(), { number = 2.25 })
    assert.are.equal(2.25, history_of(sim, id).prompt[1])
  end)

  it("unknown, queued and running: 200 and {}", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local running = occupy(sim, ws, "a")
    local queued = submit(sim, small(), "a")
    for _, id in ipairs { running, queued, "unknown" } do assert.are.equal("{}", get(sim, "/history/" .. id).body) end
  end)

  describe("of three jobs", function()
    local sim, ids
    setup(function()
      sim, ids = server(), {}
      local ws <close> = connect(sim, "a")
      for i = 1, 3 do ids[i] = select(2, run(sim, ws, "a", small(i))) end
    end)
    teardown(function() sim:close() end)
    local function which(path)
      local h, list = fetch(sim, path), {}
      for i, id in ipairs(ids) do
        if h[id] then list[#list + 1] = i end
      end
      return list
    end

    it("comes oldest first", function()
      local text, at = get(sim, "/history").body, 0
      for _, id in ipairs(ids) do
        local here = text:find('"' .. id .. '": {"prompt"', 1, true)
        assert.is_true(here > at)
        at = here
      end
    end)
    it("max_items gives the newest", function()
      assert.are.same({ 3 }, which "/history?max_items=1")
      assert.are.same({ 2, 3 }, which "/history?max_items=2")
      assert.are.same({ 1, 2, 3 }, which "/history?max_items=10")
    end)
    it("offset skips the oldest", function()
      assert.are.same({ 1 }, which "/history?max_items=1&offset=0")
      assert.are.same({ 2 }, which "/history?max_items=1&offset=1")
      assert.are.same({ 2, 3 }, which "/history?offset=1")
    end)
    it("max_items that is no number is 500", function() assert.are.equal(500, get(sim, "/history?max_items=abc").status) end)
    it("entries can be deleted, all cleared", function()
      local reply = request(sim, "POST", "/history", { delete = { ids[1], "nope" } })
      assert.are.same({ 200, "" }, { reply.status, reply.body })
      assert.are.same({ 2, 3 }, which "/history")
      request(sim, "POST", "/history", { clear = true })
      assert.are.equal("{}", get(sim, "/history").body)
      assert.are.equal(200, get(sim, "/view?filename=small_00001_.png").status)
    end)
  end)

  it("offset is not known to 2024-10", function()
    local sim <close> = server { version = "2024-10" }
    local ws <close> = connect(sim, "a")
    run(sim, ws, "a", small(1))
    local _, newest = run(sim, ws, "a", small(2))
    assert.are.equal(newest, (next(fetch(sim, "/history?max_items=1&offset=0"))))
  end)
end)

describe("sim: what the history shows of nodes that did not run", function()
  for version, shown in pairs { ["0.3.64"] = true, ["0.3.75"] = false, ["0.18.1"] = false } do
    it((shown and "all that has something to show, on " or "nothing that was not asked for, on ") .. version, function()
      local sim <close> = server { version = version }
      local ws <close> = connect(sim, "a")
      local p = small()
      run(sim, ws, "a", p)
      p["4"] = { class_type = "SaveImage", inputs = { images = { "1", 0 }, filename_prefix = "fourth" } }
      local _, id = run(sim, ws, "a", p, { partial_execution_targets = { "4" } })
      local outputs = history_of(sim, id).outputs
      assert.are.equal("fourth_00001_.png", outputs["4"].images[1].filename)
      assert.are.equal(shown and "small_00001_.png" or nil, outputs["3"] and outputs["3"].images[1].filename)
    end)
  end
end)

describe("sim: the errors of one node", function()
  local function order(options)
    local sim <close> = server(options)
    local names = {}
    local reply = request(sim, "POST", "/prompt", { prompt = {
      ["1"] = { class_type = "KSampler", inputs = { nothing = 1 } }, ["2"] = { class_type = "VAEDecode", inputs = { samples = { "1", 0 } } },
      ["3"] = { class_type = "SaveImage", inputs = { images = { "2", 0 }, filename_prefix = "x" } },
    } })
    for i, e in ipairs(json.decode(reply.body).node_errors["1"].errors) do names[i] = e.details end
    return table.concat(names, " ")
  end

  it("come in the catalogue's order, or with random_errors in one of the server's own", function()
    local plain, seen, different = order {}, {}, 0
    for seed = 1, 5 do
      local one = order { random_errors = true, seed = seed }
      assert.are.equal(one, order { random_errors = true, seed = seed })
      if not seen[one] then different = different + 1 end
      seen[one] = true
      assert.are.equal(#plain, #one)
    end
    assert.is_true(different > 1)
  end)
end)

-- ---- values -------------------------------------------------------------------------------------------------------------------------

describe("sim: values are coerced as Python does", function()
  local function coerced(inputs)
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local p = small()
    for k, v in pairs(inputs) do p["1"].inputs[k] = v end
    local _, id = run(sim, ws, "a", p)
    return history_of(sim, id).prompt[3]["1"].inputs, get(sim, "/view?filename=small_00001_.png").body
  end

  it("a number in a text counts for the size of the picture", function()
    local _, png = coerced { width = "24", height = 24 }
    assert.are.equal(string.pack(">I4I4", 24, 24), png:sub(17, 24))
  end)
  it("INT from a fraction is taken, __value__ is looked into", function()
    assert.is_not_nil(coerced { color = 3.99 }.color)
    assert.is_not_nil(coerced { color = { __value__ = 7 } }.color)
  end)
  it("the history shows the coerced values", function()
    assert.are.equal("integer", math.type(coerced { color = 3.99 }.color))
    assert.are.equal(3, coerced { color = 3.99 }.color)
    assert.are.equal(7, coerced { color = { __value__ = 7 } }.color)
    assert.are.equal(24, coerced { width = "24" }.width)
  end)
  it("unknown inputs are ignored", function() assert.are.equal("x", coerced { nonsense = "x" }.nonsense) end)
  it("a seed of 64 bits is exact", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local text = json.encode(text_to_image()):gsub('"seed":%s*1([,}])', '"seed":18446744073709551615%1')
    local reply = request(sim, "POST", "/prompt", '{"client_id":"a","prompt":' .. text .. "}")
    assert.are.equal(200, reply.status, reply.body)
    local id = json.decode(reply.body).prompt_id
    read_until(ws, is_end(id))
    assert.matches('"seed": ?18446744073709551615[,}]', get(sim, "/history/" .. id).body)
  end)
end)

-- ---- files ----------------------------------------------------------------------------------------------------------------------------

-- The chunks of a PNG; raises on a wrong checksum.
local function chunks_of(png)
  assert.are.equal("\x89PNG\r\n\x1a\n", png:sub(1, 8))
  local list, at = {}, 9
  while at <= #png do
    local n, kind = string.unpack(">I4c4", png, at)
    local data, sum = png:sub(at + 8, at + 7 + n), string.unpack(">I4", png, at + 8 + n)
    local crc = 0xffffffff
    for i = at + 4, at + 7 + n do
      crc = crc ~ png:byte(i)
      for _ = 1, 8 do crc = crc & 1 == 1 and (crc >> 1) ~ 0xedb88320 or crc >> 1 end
    end
    assert.are.equal(sum, crc ~ 0xffffffff, kind)
    list[#list + 1] = { kind = kind, data = data }
    at = at + 12 + n
  end
  return list
end

describe("sim: GET /view", function()
  local sim, prompt, id
  local ui = { id = "w1", nodes = {} }
  setup(function()
    sim, prompt = server(), text_to_image()
    prompt["5"].inputs.width, prompt["5"].inputs.height = 48, 32
    prompt["9"].inputs.filename_prefix = "sub/dir/ümlaut & co"
    local ws <close> = connect(sim, "a")
    id = select(2, run(sim, ws, "a", prompt, { extra_data = { extra_pnginfo = { workflow = ui } } }))
  end)
  teardown(function() sim:close() end)
  local there = "/view?filename=%C3%BCmlaut%20%26%20co_00001_.png&subfolder=sub%2Fdir&type=output"

  it("gives the picture that the history names", function()
    assert.are.same({ filename = "ümlaut & co_00001_.png", subfolder = "sub/dir", type = "output" }, history_of(sim, id).outputs["9"].images[1])
    local reply = get(sim, there)
    assert.are.equal(200, reply.status)
    assert.are.equal("image/png", reply.content_type)
  end)

  it("it is a PNG of the latent's size with right checksums", function()
    local list = chunks_of(get(sim, there).body)
    assert.are.equal("IHDR", list[1].kind)
    assert.are.equal(string.pack(">I4I4BBBBB", 48, 32, 8, 2, 0, 0, 0), list[1].data)
    assert.are.equal("IEND", list[#list].kind)
    assert.are.equal("", list[#list].data)
  end)

  it("its tEXt chunks hold the prompt and extra_pnginfo", function()
    local texts = {}
    for _, c in ipairs(chunks_of(get(sim, there).body)) do
      if c.kind == "tEXt" then
        local key, value = c.data:match "^(%Z+)%z(.*)$"
        texts[key] = json.decode(value)
      end
    end
    assert.are.same(prompt, texts.prompt)
    assert.are.equal("w1", texts.workflow.id)
  end)

  it("moonpool.workflow.from reads it back", function()
    local w = assert(moonpool.workflow.from(get(sim, there).body))
    assert.are.same(prompt, json.decode(w:to_json()))
    assert.are.equal(moonpool.workflow.from(json.encode(prompt)).structure_hash, w.structure_hash)
  end)

  it("another seed gives another picture, a batch several", function()
    local other <close> = server()
    local ws <close> = connect(other, "a")
    local p = text_to_image { seed = 1 }
    p["5"].inputs.batch_size = 2
    local _, batch = run(other, ws, "a", p)
    local images = history_of(other, batch).outputs["9"].images
    assert.are.same({ "lighthouse_00001_.png", "lighthouse_00002_.png" }, { images[1].filename, images[2].filename })
    run(other, ws, "a", text_to_image { seed = 2 })
    local function pixels(n)
      for _, c in ipairs(chunks_of(get(other, ("/view?filename=lighthouse_%05d_.png"):format(n)).body)) do
        if c.kind == "IDAT" then return c.data end
      end
    end
    assert.are_not.equal(pixels(1), pixels(2))
    assert.are_not.equal(pixels(1), pixels(3))
  end)

  it("the server replaces %width% and %height% in the prefix", function()
    local other <close> = server()
    local ws <close> = connect(other, "a")
    local list = run(other, ws, "a", small(1, "a_%width%x%height%"))
    assert.are.equal("a_16x16_00001_.png", only(list, "executed")[1].data.output.images[1].filename)
  end)

  it("PreviewImage writes to temp", function()
    local other <close> = server()
    local ws <close> = connect(other, "a")
    local p = small()
    p["3"] = { class_type = "PreviewImage", inputs = { images = { "2", 0 } } }
    local _, one = run(other, ws, "a", p)
    local image = history_of(other, one).outputs["3"].images[1]
    assert.are.equal("temp", image.type)
    assert.matches("^ComfyUI_temp_%a%a%a%a%a_00001_%.png$", image.filename)
    assert.are.equal(200, get(other, "/view?type=temp&filename=" .. image.filename).status)
    assert.are.equal(404, get(other, "/view?filename=" .. image.filename).status)
    assert.are.equal(200, get(other, "/view?filename=" .. image.filename .. "%20%5Btemp%5D").status)
  end)

  for path, status in pairs {
    ["/view?filename=missing.png&type=output"] = 404, ["/view"] = 404, ["/view?filename=small_00001_.png&subfolder=nowhere"] = 404,
    ["/view?filename=x.png&type=elsewhere"] = 400, ["/view?filename=..%2Fx.png&type=output"] = 400, ["/view?filename=%2Fetc%2Fhostname"] = 400,
    ["/view?filename=x.png&subfolder=..%2F..&type=output"] = 403, ["/view?filename=x.png&subfolder=%2Fetc"] = 403,
  } do
    it(path .. " is " .. status .. " with an empty body", function()
      local reply = get(sim, path)
      assert.are.same({ status, "" }, { reply.status, reply.body })
    end)
  end

  it("a path in the file name is cut to its last part", function()
    assert.are.equal(200, get(sim, "/view?filename=elsewhere%2F%C3%BCmlaut%20%26%20co_00001_.png&subfolder=sub%2Fdir").status)
  end)

  it("names the file in Content-Disposition", function()
    assert.are.equal('filename="ümlaut & co_00001_.png"', get(sim, there).headers["content-disposition"])
  end)

  it("gives a part, says where it is, and refuses one outside of the file", function()
    local whole = get(sim, there).body
    local function part(range) return moonpool.http.request { url = sim.url .. there, headers = { Range = range } } end
    for range, want in pairs { ["bytes=0-15"] = { 1, 16 }, ["bytes=8-"] = { 9, #whole }, ["bytes=-4"] = { #whole - 3, #whole }, ["bytes=5-1000000"] = { 6, #whole } } do
      local reply = part(range)
      assert.are.same({ 206, whole:sub(want[1], want[2]) }, { reply.status, reply.body })
      assert.are.equal(("bytes %d-%d/%d"):format(want[1] - 1, want[2] - 1, #whole), reply.headers["content-range"])
    end
    for _, range in ipairs { "bytes=1000000-", "bytes=9-3", "bytes=x-3", "bytes=3", "pixels=0-3", "bytes=--5", "bytes=+5-", "bytes=-" } do assert.are.equal(416, part(range).status, range) end
  end)

  it("gives nothing when it has not changed since", function()
    local function since(date) return moonpool.http.request { url = sim.url .. there, headers = { ["If-Modified-Since"] = date } } end
    assert.are.same({ 304, "" }, { since("Fri, 01 Jan 2100 00:00:00 GMT").status, since("Fri, 01 Jan 2100 00:00:00 GMT").body })
    assert.are.equal(304, since(get(sim, there).headers["last-modified"]).status)
    assert.are.equal(200, since("Sat, 01 Jan 2000 00:00:00 GMT").status)
    assert.are.equal(200, since("yesterday").status)
  end)

  it("converts: previews and channels", function()
    local function made(how) return get(sim, there .. "&" .. how) end
    local webp, jpeg, rgb, alpha = made "preview=webp;90", made "preview=jpeg;60", made "channel=rgb", made "channel=a"
    assert.are.same({ "image/webp", "image/jpeg", "image/png", "image/png" }, { webp.content_type, jpeg.content_type, rgb.content_type, alpha.content_type })
    assert.are.same({ "RIFF", "WEBPVP8L", #webp.body - 8 }, { webp.body:sub(1, 4), webp.body:sub(9, 16), (string.unpack("<I4", webp.body, 5)) })
    assert.are.same({ "\xff\xd8", "\xff\xd9" }, { jpeg.body:sub(1, 2), jpeg.body:sub(-2) })
    assert.are.same({ 48, 32, 8, 2 }, { table.unpack({ string.unpack(">I4I4BB", rgb.body, 17) }, 1, 4) })
    assert.are.equal(6, alpha.body:byte(26))
    assert.is_nil(rgb.headers.etag)
  end)

  it("works on 2024-10", function()
    local other <close> = server { version = "2024-10" }
    local ws <close> = connect(other, "a")
    run(other, ws, "a", small())
    assert.are.equal("\x89PNG", get(other, "/view?filename=small_00001_.png&subfolder=&type=output").body:sub(1, 4))
  end)
end)

describe("sim: uploads", function()
  local red, blue = "\x89PNG red\0\r\n--x", "\x89PNG blue"
  local function name_of(reply)
    assert.are.equal(200, reply.status)
    return json.decode(reply.body).name
  end

  it("the name comes back; same content again: the same name; other content: ' (1)'", function()
    local sim <close> = server()
    local reply = upload(sim, { picture("cat.png", red) })
    assert.are.same({ name = "cat.png", subfolder = "", type = "input" }, json.decode(reply.body))
    assert.are.equal("cat.png", name_of(upload(sim, { picture("cat.png", red) })))
    assert.are.equal("cat (1).png", name_of(upload(sim, { picture("cat.png", blue) })))
    assert.are.equal("cat (1).png", name_of(upload(sim, { picture("cat.png", blue) })))
    assert.are.equal("cat (2).png", name_of(upload(sim, { picture("cat.png", "third") })))
    assert.are.equal(red, get(sim, "/view?type=input&filename=cat.png").body)
    assert.are.equal(blue, get(sim, "/view?type=input&filename=cat%20(1).png").body)
  end)

  it("overwrite puts the new content there", function()
    local sim <close> = server()
    upload(sim, { picture("cat.png", red) })
    for _, word in ipairs { "true", "1" } do
      assert.are.equal("cat.png", name_of(upload(sim, { picture("cat.png", word), { name = "overwrite", data = word } })))
      assert.are.equal(word, get(sim, "/view?type=input&filename=cat.png").body)
    end
    assert.are.equal("cat (1).png", name_of(upload(sim, { picture("cat.png", red), { name = "overwrite", data = "false" } })))
  end)

  it("subfolder and type", function()
    local sim <close> = server()
    local reply = upload(sim, { picture("cat.png", red), { name = "subfolder", data = "a/b" }, { name = "type", data = "temp" } })
    assert.are.same({ name = "cat.png", subfolder = "a/b", type = "temp" }, json.decode(reply.body))
    assert.are.equal(red, get(sim, "/view?type=temp&subfolder=a%2Fb&filename=cat.png").body)
    assert.are.equal(404, get(sim, "/view?type=input&subfolder=a%2Fb&filename=cat.png").status)
  end)

  it("names outside of ASCII, files that are no pictures, empty ones", function()
    local sim <close> = server()
    assert.are.equal("bild ü 漢.png", name_of(upload(sim, { picture("bild ü 漢.png", red) })))
    assert.are.equal("note.txt", name_of(upload(sim, { picture("note.txt", "hello") })))
    assert.are.equal("empty.png", name_of(upload(sim, { picture("empty.png", "") })))
  end)

  it("faulty ones: no image part 400, subfolder outside 400, unknown type 500, not multipart 400", function()
    local sim <close> = server()
    assert.are.equal(400, upload(sim, { { name = "overwrite", data = "true" } }).status)
    assert.are.equal(400, upload(sim, { picture("cat.png", red), { name = "subfolder", data = "../.." } }).status)
    assert.are.equal(400, upload(sim, { picture("../cat.png", red) }).status)
    assert.are.equal(500, upload(sim, { picture("cat.png", red), { name = "type", data = "elsewhere" } }).status)
    assert.are.equal(400, request(sim, "POST", "/upload/image", "image=x").status)
  end)

  it("/api/upload/image and /upload/mask are there", function()
    local sim <close> = server()
    assert.are.equal("cat.png", name_of(upload(sim, { picture("cat.png", red) }, "/api/upload/image")))
    local reply = upload(sim, { picture("mask.png", red), { name = "original_ref", data = '{"filename":"nope.png","subfolder":"","type":"input"}' } }, "/upload/mask")
    assert.are.equal("mask.png", name_of(reply))
  end)

  it("a mask's alpha replaces that of its original, which is saved under the new name", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    run(sim, ws, "a", small(1))
    local solid = get(sim, "/view?filename=small_00001_.png&channel=a").body
    local reply = upload(sim, { picture("masked.png", solid), { name = "original_ref", data = '{"filename":"small_00001_.png","subfolder":"","type":"output"}' } }, "/upload/mask")
    assert.are.equal("masked.png", name_of(reply))
    local merged = get(sim, "/view?type=input&filename=masked.png").body
    assert.are.same({ 16, 16, 8, 6 }, { table.unpack({ string.unpack(">I4I4BB", merged, 17) }, 1, 4) })
    local function idat(png, how)
      for _, c in ipairs(chunks_of(how and get(sim, how).body or png)) do
        if c.kind == "IDAT" then return c.data end
      end
    end
    assert.are.equal(idat(get(sim, "/view?filename=small_00001_.png&channel=rgb").body), idat(nil, "/view?type=input&filename=masked.png&channel=rgb"))
    assert.are.equal(500, upload(sim, { picture("no.png", red), { name = "original_ref", data = '{"filename":"small_00001_.png","subfolder":"","type":"output"}' } }, "/upload/mask").status)
  end)

  local function with_image(name)
    return { ["1"] = { class_type = "LoadImage", inputs = { image = name } }, ["2"] = { class_type = "ImageInvert", inputs = { image = { "1", 0 } } },
             ["3"] = { class_type = "SaveImage", inputs = { images = { "2", 0 }, filename_prefix = "loaded" } } }
  end

  it("LoadImage of an uploaded picture works, also in a subfolder and in temp", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    upload(sim, { picture("cat.png", red) })
    upload(sim, { picture("cat.png", red), { name = "subfolder", data = "a/b" } })
    upload(sim, { picture("cat.png", red), { name = "type", data = "temp" } })
    for _, name in ipairs { "cat.png", "a/b/cat.png", "cat.png [temp]", "cat.png [input]" } do
      assert.are.equal(1, #only(run(sim, ws, "a", with_image(name)), "execution_success"), name)
    end
  end)

  it("an unknown picture is refused with the server's words", function()
    local sim <close> = server()
    local reply = request(sim, "POST", "/prompt", { prompt = with_image "no such file.png" })
    assert.are.equal(400, reply.status)
    local e = json.decode(reply.body).node_errors["1"]
    assert.are.equal("LoadImage", e.class_type)
    assert.are.same({ "3" }, e.dependent_outputs)
    assert.are.same({ { type = "custom_validation_failed", message = "Custom validation failed for node", details = "image - Invalid image file: no such file.png",
      extra_info = { input_name = "image" } } }, e.errors)
  end)

  it("the same name with new content runs again, the same content does not", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    upload(sim, { picture("cat.png", red) })
    run(sim, ws, "a", with_image "cat.png")
    upload(sim, { picture("cat.png", red), { name = "overwrite", data = "true" } })
    assert.are.equal("execution_cached 1,2,3", shorts(run(sim, ws, "a", with_image "cat.png"))[4])
    upload(sim, { picture("cat.png", blue), { name = "overwrite", data = "true" } })
    assert.are.equal("execution_cached", shorts(run(sim, ws, "a", with_image "cat.png"))[4])
  end)

  it("object_info of LoadImage lists what was uploaded", function()
    local sim <close> = server()
    assert.are.same({}, fetch(sim, "/object_info/LoadImage").LoadImage.input.required.image[1])
    upload(sim, { picture("cat.png", red) })
    upload(sim, { picture("dog.png", red), { name = "type", data = "temp" } })
    assert.are.same({ "cat.png" }, fetch(sim, "/object_info/LoadImage").LoadImage.input.required.image[1])
    assert.are.same({ "cat.png" }, fetch(sim, "/object_info").LoadImage.input.required.image[1])
  end)

  it("object_info of LoadImage is right for names with brackets and quotes", function()
    local sim <close> = server()
    upload(sim, { picture("a].png", red) })
    upload(sim, { picture("b.png", red) })
    assert.are.same({ "a].png", "b.png" }, fetch(sim, "/object_info/LoadImage").LoadImage.input.required.image[1])
  end)
end)

-- ---- information and errors -----------------------------------------------------------------------------------------------------------

describe("sim: information", function()
  it("object_info: whole, single, unknown", function()
    local sim <close> = server()
    local all = fetch(sim, "/object_info")
    assert.is_truthy(all.KSampler and all.SaveImage)
    assert.is_true(all.SaveImage.output_node)
    local one = fetch(sim, "/object_info/KSampler")
    assert.are.same(all.KSampler, one.KSampler)
    assert.is_nil(one.SaveImage)
    assert.are.equal("{}", get(sim, "/object_info/Nope").body)
  end)

  it("object_info: definitions have the documented fields", function()
    local sim <close> = server()
    for name, d in pairs(fetch(sim, "/object_info")) do
      for _, field in ipairs { "input", "input_order", "output", "output_is_list", "output_name", "name", "display_name", "description", "python_module", "category" } do
        assert.is_truthy(d[field], name .. "." .. field)
      end
      assert.are.equal(#d.output, #d.output_is_list, name)
      assert.are.equal(#d.output, #d.output_name, name)
      assert.are.equal("boolean", type(d.output_node), name)
    end
  end)

  it("object_info of a catalogue of one's own, class names percent-encoded", function()
    local sim <close> = server { catalogue = [[{"My Save/2": {"input": {"required": {}}, "output": [], "output_node": true, "name": "My Save/2"}}]] }
    assert.is_truthy(fetch(sim, "/object_info")["My Save/2"])
    assert.is_truthy(fetch(sim, "/object_info/My%20Save%2F2")["My Save/2"])
  end)

  it("a catalogue that is none is refused", function()
    for _, text in ipairs { "", "[]", "{", "hello" } do
      local sim, err = moonpool.sim { catalogue = text }
      assert.is_nil(sim)
      assert.is_truthy(err)
    end
  end)

  it("an unknown version is refused, naming those there are", function()
    local sim, err = moonpool.sim { version = "0.1" }
    assert.is_nil(sim)
    assert.matches("0.18.1", tostring(err), 1, true)
  end)

  it("system_stats", function()
    local sim <close> = server { name = "My GPU", vram_gb = 8 }
    local stats = fetch(sim, "/system_stats")
    assert.are.equal("0.18.1", stats.system.comfyui_version)
    assert.are.equal("linux", stats.system.os)
    for _, field in ipairs { "ram_total", "ram_free", "python_version", "pytorch_version", "argv" } do assert.is_truthy(stats.system[field], field) end
    assert.is_false(stats.system.embedded_python)
    assert.are.equal(1, #stats.devices)
    local d = stats.devices[1]
    assert.are.equal("My GPU", d.name)
    assert.are.equal(8 * 1024 ^ 3, d.vram_total)
    for _, field in ipairs { "type", "index", "vram_free", "torch_vram_total", "torch_vram_free" } do assert.is_truthy(d[field], field) end
  end)

  it("system_stats of 2024-10 reports its version as unknown", function()
    local sim <close> = server { version = "2024-10" }
    local stats = fetch(sim, "/system_stats").system
    assert.are.same({ "unknown", "posix" }, { stats.comfyui_version, stats.os })
  end)

  it("models take VRAM, bounded by what there is", function()
    local sim <close> = server { vram_gb = 8 }
    local ws <close> = connect(sim, "a")
    for _, name in ipairs { "sd15", "sdxl", "flux-dev", "dreamshaper" } do
      local p = text_to_image()
      p["4"].inputs.ckpt_name = name .. ".safetensors"
      run(sim, ws, "a", p)
      local d = fetch(sim, "/system_stats").devices[1]
      assert.is_true(d.vram_free < d.vram_total and d.vram_free >= 0)
    end
  end)

  it("GET /prompt, /queue, /history of an idle server", function()
    local sim <close> = server()
    assert.are.same({ exec_info = { queue_remaining = 0 } }, fetch(sim, "/prompt"))
    assert.are.same({ queue_running = {}, queue_pending = {} }, fetch(sim, "/queue"))
    assert.are.equal("{}", get(sim, "/history").body)
  end)

  it("every route has its twin under /api", function()
    local sim <close> = server()
    for _, path in ipairs { "/prompt", "/queue", "/history", "/history/x", "/object_info", "/object_info/KSampler", "/system_stats", "/features", "/embeddings", "/extensions" } do
      local plain, twin = get(sim, path), get(sim, "/api" .. path)
      assert.are.equal(200, twin.status, path)
      if path ~= "/system_stats" then assert.are.equal(plain.body, twin.body, path) end
      assert.are.equal(plain.content_type, twin.content_type, path)
    end
    for _, path in ipairs { "/interrupt", "/queue", "/history", "/free" } do assert.are.equal(200, request(sim, "POST", "/api" .. path, "{}").status, path) end
    assert.are.equal(200, request(sim, "POST", "/api/prompt", { prompt = small() }).status)
    assert.are.equal(404, get(sim, "/api/view?filename=none.png").status)
  end)
end)

describe("sim: errors of HTTP", function()
  it("an Origin that is not the Host is 403 with an empty body", function()
    local sim <close> = server()
    for _, origin in ipairs { "http://example.com", "http://127.0.0.1:1", "http://localhost:" .. sim.port } do
      local reply = get(sim, "/queue", { Origin = origin })
      assert.are.same({ 403, "" }, { reply.status, reply.body }, origin)
      assert.are.equal(403, request(sim, "POST", "/prompt", { prompt = small() }, { Origin = origin }).status)
    end
  end)

  it("an Origin that is the Host is fine, also without a port or in capitals", function()
    local sim <close> = server()
    for _, origin in ipairs { sim.url, "http://127.0.0.1", sim.url:upper() } do assert.are.equal(200, get(sim, "/queue", { Origin = origin }).status, origin) end
  end)

  it("a WebSocket with a foreign Origin is refused", function()
    local sim <close> = server()
    local ws, err = moonpool.ws.connect { url = sim.url:gsub("^http", "ws") .. "/ws", headers = { Origin = "http://example.com" } }
    assert.is_nil(ws)
    assert.matches("403", tostring(err), 1, true)
  end)

  it("malformed JSON is 500 in plain text", function()
    local sim <close> = server()
    for _, path in ipairs { "/prompt", "/queue", "/history", "/free" } do
      local reply = request(sim, "POST", path, "{")
      assert.are.equal(500, reply.status, path)
      assert.are.equal("500 Internal Server Error\n\nServer got itself in trouble", reply.body, path)
      assert.are.equal("text/plain; charset=utf-8", reply.content_type, path)
    end
  end)

  it("unknown paths are 404, wrong methods 405", function()
    local sim <close> = server()
    for _, path in ipairs { "/nonsense", "/api/nonsense", "/interrupt", "/queue/", "/free" } do
      local reply = get(sim, path)
      assert.are.same({ 404, "404: Not Found" }, { reply.status, reply.body }, path)
    end
    assert.are.equal(405, request(sim, "PUT", "/prompt", "{}").status)
  end)

  it("OPTIONS is 200", function()
    local sim <close> = server()
    local reply = request(sim, "OPTIONS", "/prompt")
    assert.are.same({ 200, "" }, { reply.status, reply.body })
  end)

  it("bodies of other shapes are tolerated where the server does", function()
    local sim <close> = server()
    assert.are.equal(200, request(sim, "POST", "/queue", "[]").status)
    assert.are.equal(200, request(sim, "POST", "/queue", { delete = "not-a-list" }).status)
    assert.are.equal(200, request(sim, "POST", "/interrupt", "").status)
  end)

  it("the content type of a prompt is not looked at", function()
    local sim <close> = server()
    local reply = request(sim, "POST", "/prompt", json.encode { prompt = small() }, { ["Content-Type"] = "text/plain" })
    assert.are.equal(200, reply.status)
  end)

  it("a prompt partly valid: 200, node_errors, the valid half runs", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local p = small()
    p["4"] = { class_type = "EmptyImage", inputs = { width = 99999, height = 16, batch_size = 1, color = 0 } }
    p["5"] = { class_type = "SaveImage", inputs = { images = { "4", 0 }, filename_prefix = "bad" } }
    local id, answer = submit(sim, p, "a")
    assert.are.equal("value_bigger_than_max", answer.node_errors["4"].errors[1].type)
    assert.are.same({ "5" }, answer.node_errors["4"].dependent_outputs)
    local list = read_until(ws, is_end(id))
    assert.are.equal(1, #only(list, "execution_success"))
    assert.are.equal(1, #only(list, "executed"))
    assert.are.same({ "3" }, history_of(sim, id).prompt[5])
  end)
end)

-- What is posted here is no table of Lua: it says exactly what it says.
describe("sim: prompts of other shapes", function()
  local function post(sim, prompt, extra, id)
    return request(sim, "POST", "/prompt", ('{"client_id": "a", "prompt_id": "%s", "prompt": %s, "extra_data": %s}'):format(id or "p", prompt, extra or "{}"))
  end
  local save = '{"1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 1}}, "2": {"class_type": "SaveImage", "inputs": %s}}'
  local saved = save:format '{"images": ["1", 0], "filename_prefix": "x"}'
  local versions = { "0.18.1", "0.3.75", "0.3.64", "2024-10" }

  for _, version in ipairs(versions) do
    it("inputs that are a list lack what is required, on " .. version, function()
      local sim <close> = server { version = version }
      for _, inputs in ipairs { "[]", '["x", "y"]', "[1, null, {}, []]", '[["1", 0], ["1", 0]]', '"text"' } do
        local reply = post(sim, save:format(inputs))
        assert.are.equal(400, reply.status, inputs)
        local missing = {}
        for i, e in ipairs(json.decode(reply.body).node_errors["2"].errors) do missing[i] = e.type .. " " .. e.details end
        table.sort(missing)
        assert.are.same({ "required_input_missing filename_prefix", "required_input_missing images" }, missing)
      end
    end)
  end

  it("inputs that are a list with an input's name in it cannot be read, and those that are no list either", function()
    local sim <close> = server()
    for inputs, words in pairs { ['["images"]'] = "list indices must be integers or slices, not str", ['"my images"'] = "string indices must be integers, not 'str'",
      ["5"] = "argument of type 'int' is not iterable", ["5.5"] = "argument of type 'float' is not iterable", ["true"] = "argument of type 'bool' is not iterable",
      ["null"] = "argument of type 'NoneType' is not iterable" } do
      local reply = post(sim, save:format(inputs))
      assert.are.equal(400, reply.status, inputs)
      local errors = json.decode(reply.body).node_errors["2"].errors
      assert.are.same({ 1, "exception_during_validation", words, "TypeError" }, { #errors, errors[1].type, errors[1].details, errors[1].extra_info.exception_type })
    end
    local inner = post(sim, '{"1": {"class_type": "ImageInvert", "inputs": ["image"]}, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}')
    local e = json.decode(inner.body).node_errors["1"].errors[1]
    assert.are.same({ "exception_during_inner_validation", "list indices must be integers or slices, not str", "images" }, { e.type, e.details, e.extra_info.input_name })
  end)

  it("an endless number is no INT, and too big a FLOAT", function()
    local sim <close> = server()
    local sized = '{"1": {"class_type": "EmptyImage", "inputs": {"width": %s, "height": 16, "batch_size": 1, "color": 1}}, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}'
    for value, words in pairs { Infinity = "width, inf, cannot convert float infinity to integer", ["-Infinity"] = "width, -inf, cannot convert float infinity to integer",
      ["1e999"] = "width, inf, cannot convert float infinity to integer", NaN = "width, nan, cannot convert float NaN to integer" } do
      local e = json.decode(post(sim, sized:format(value)).body).node_errors["1"].errors
      assert.are.same({ 1, "invalid_input_type", words }, { #e, e[1].type, e[1].details })
    end
    local blur = sized:format(16):gsub('"2": ', '"3": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 1, "sigma": Infinity}}, %0'):gsub('%["1", 0%]}}}', '["3", 0]}}}')
    assert.are.equal(math.huge, json.decode(post(sim, blur).body).node_errors["3"].errors[1].extra_info.received_value)
  end)

  for _, version in ipairs(versions) do
    it("a node that nobody looks at, without inputs or with a list of them, ends the worker, on " .. version, function()
      for _, node in ipairs { '{"class_type": "ImageInvert"}', '{"class_type": "ImageInvert", "inputs": []}', '{"class_type": "ImageInvert", "inputs": ["image", "image"]}', '{"class_type": "ImageInvert", "inputs": null}' } do
        local sim <close> = server { version = version }
        local ws <close> = connect(sim, "a")
        assert.are.equal(200, post(sim, '{"9": ' .. node .. ", " .. saved:sub(2)).status)
        read_until(ws, function(m) return m.type == "execution_start" end)
        assert.are.equal(200, post(sim, saved, "{}", "q").status)
        assert.are.equal("status 2", short(next_message(ws)))
        local queue = fetch(sim, "/queue")
        assert.are.same({ 1, 1 }, { #queue.queue_running, #queue.queue_pending })
        interrupt(sim)
        assert.are.equal("{}", get(sim, "/history").body)
        sim:restart()
        local again <close> = connect(sim, "a")
        assert.are.equal(1, #only(run(sim, again, "a", small()), "execution_success"))
      end
    end)
  end

  it("with any_node a node may have a list too, which ends the worker", function()
    local sim <close> = server { any_node = true }
    local ws <close> = connect(sim, "a")
    assert.are.equal(200, post(sim, '{"1": {"class_type": "Mine", "inputs": [["2", 0], ["3", 0], "x"]}}').status)
    read_until(ws, function(m) return m.type == "execution_start" end)
    assert.are.equal(1, fetch(sim, "/prompt").exec_info.queue_remaining)
  end)

  for _, version in ipairs(versions) do
    it("extra_pnginfo that is no object is where SaveImage fails, on " .. version, function()
      local sim <close> = server { version = version }
      local ws <close> = connect(sim, "a")
      for info, words in pairs { ['["workflow"]'] = "list indices must be integers or slices, not str", ["[{}, 1]"] = "list indices must be integers or slices, not dict",
        ["[null]"] = "list indices must be integers or slices, not NoneType", ['"text"'] = "string indices must be integers, not 'str'", ["5"] = "'int' object is not iterable" } do
        local answer = json.decode(post(sim, saved, '{"extra_pnginfo": ' .. info .. "}", "p" .. #info).body)
        local list = read_until(ws, is_end(answer.prompt_id))
        local e = only(list, "execution_error")[1].data
        assert.are.same({ "2", "TypeError", words .. (version == "2024-10" and "" or "\n") }, { e.node_id, e.exception_type, e.exception_message })
        assert.are.equal("table", type(e.current_inputs.extra_pnginfo))
        assert.are.equal(404, get(sim, "/view?filename=x_00001_.png").status)
      end
    end)
  end

  it("extra_pnginfo that is null or an empty list hurts nobody", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    for i, info in ipairs { "null", "[]", "{}" } do
      post(sim, saved:gsub('"x"', '"x' .. i .. '"'), '{"extra_pnginfo": ' .. info .. "}", "p" .. i)
      assert.are.equal(1, #only(read_until(ws, is_end("p" .. i)), "execution_success"))
      assert.are.equal(200, get(sim, "/view?filename=x" .. i .. "_00001_.png").status)
    end
  end)

  it("with any_node such a prompt makes its picture without it", function()
    local sim <close> = server { any_node = true }
    local ws <close> = connect(sim, "a")
    post(sim, '{"1": {"class_type": "Mine", "inputs": {}}}', '{"extra_pnginfo": ["a", "b"]}')
    local image = only(read_until(ws, is_end "p"), "executed")[1].data.output.images[1]
    assert.are.equal(200, get(sim, "/view?filename=" .. image.filename).status)
  end)

  it("a workflow's id is told by the jobs API; one job whose extra_pnginfo or workflow is no object fails the whole list", function()
    for _, info in ipairs { "null", "[]", '{"workflow": null}', '{"workflow": []}' } do
      local sim <close> = server()
      local ws <close> = connect(sim, "a")
      post(sim, saved, '{"extra_pnginfo": {"workflow": {"id": "w1"}}}', "p1")
      read_until(ws, is_end "p1")
      post(sim, saved, "{}", "p2")
      read_until(ws, is_end "p2")
      assert.are.equal("w1", fetch(sim, "/api/jobs/p1").workflow_id)
      assert.are.equal(2, #fetch(sim, "/api/jobs").jobs)
      assert.are.equal("p1", fetch(sim, "/api/jobs?workflow_id=w1").jobs[1].id)
      assert.are.equal(1, fetch(sim, "/api/jobs?workflow_id=w1").pagination.total)
      assert.are.equal(0, #fetch(sim, "/api/jobs?workflow_id=w2").jobs)
      post(sim, saved, '{"extra_pnginfo": ' .. info .. "}", "bad")
      read_until(ws, is_end "bad")
      assert.are.equal(500, get(sim, "/api/jobs").status, info)
      assert.are.equal(500, get(sim, "/api/jobs/bad").status, info)
      assert.are.equal(200, get(sim, "/api/jobs/p1").status, info)
    end
  end)
end)

describe("sim: POST /free", function()
  it("with free_memory drops the cache and the models", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    run(sim, ws, "a", text_to_image())
    local reply = request(sim, "POST", "/free", { free_memory = true })
    assert.are.same({ 200, "" }, { reply.status, reply.body })
    local d = fetch(sim, "/system_stats").devices[1]
    assert.are.equal(d.vram_total, d.vram_free)
    local list = run(sim, ws, "a", text_to_image())
    assert.are.equal("execution_cached", shorts(list)[4])
    assert.are.equal("lighthouse_00002_.png", only(list, "executed")[1].data.output.images[1].filename)
  end)

  it("with unload_models keeps the cache", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    run(sim, ws, "a", text_to_image())
    request(sim, "POST", "/free", { unload_models = true })
    local d = fetch(sim, "/system_stats").devices[1]
    assert.are.equal(d.vram_total, d.vram_free)
    assert.are.equal("execution_cached 3,4,5,6,7,8,9", shorts(run(sim, ws, "a", text_to_image()))[4])
  end)

  it("while a job runs takes effect after it: nothing of that job stays cached", function()
    local sim <close> = server { costs = { EmptyImage = 5000 } }
    local ws <close> = connect(sim, "a")
    local id = submit(sim, small(), "a")
    read_until(ws, is_executing "1")
    request(sim, "POST", "/free", { free_memory = true })
    read_until(ws, is_end(id))
    assert.are.equal("execution_cached", shorts(run(sim, ws, "a", small()))[4])
  end)
end)

describe("sim: any_node", function()
  local function strange()
    return {
      ["1"] = { class_type = "MyLoader", inputs = { model = "mine.safetensors" } },
      ["2"] = { class_type = "MySampler", inputs = { model = { "1", 0 }, steps = 3, seed = 5 } },
      ["3"] = { class_type = "MyEnd", inputs = { x = { "2", 0 } } },
    }
  end

  it("off: an unknown class is refused", function()
    local sim <close> = server()
    local reply = request(sim, "POST", "/prompt", { prompt = strange() })
    assert.are.equal(400, reply.status)
    assert.are.equal("missing_node_type", json.decode(reply.body).error.type)
  end)

  it("on: it runs, and the end of the graph makes a picture", function()
    local sim <close> = server { any_node = true }
    local ws <close> = connect(sim, "a")
    local list = run(sim, ws, "a", strange())
    assert.are.same({ "executing 1", "executing 2", "progress 1/3", "progress 3/3", "executing 3", "executed 3" }, { table.unpack(shorts(list, "progress_state"), 5, 10) })
    local image = only(list, "executed")[1].data.output.images[1]
    chunks_of(get(sim, "/view?filename=" .. image.filename).body)
  end)

  it("on: a user's own model, sampler and picture names do not stop his workflow", function()
    local sim <close> = server { any_node = true }
    local ws <close> = connect(sim, "a")
    local p = text_to_image()
    p["4"].inputs.ckpt_name = "my_own_model.safetensors"
    p["3"].inputs.sampler_name = "my_sampler"
    assert.are.equal(1, #only(run(sim, ws, "a", p), "execution_success"))
  end)
end)
