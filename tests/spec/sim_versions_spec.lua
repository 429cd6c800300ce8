-- tests/spec/sim_versions_spec.lua: what one simulated version does and another does not (section 7 of comfyui-protocol.md). 0.18.1 and
-- 2024-10 are held against recordings too; 0.3.64 and 0.3.75 only here.
local S = require "simkit"
local K = require "kit"
local moonpool = require "moonpool"
local json = moonpool.json
local server, request, get, fetch, connect, submit, run = S.server, S.request, S.get, S.fetch, S.connect, S.submit, S.run
local next_message, read_until, is_end, short, shorts, only = S.next_message, S.read_until, S.is_end, S.short, S.shorts, S.only
local small, text_to_image, endless_costs, occupy, interrupt, history_of = S.small, S.text_to_image, S.endless_costs, S.occupy, S.interrupt, S.history_of

after_each(K.clean)

-- What each version does: {version = what}.
local function each(what, fn)
  for version, want in K.sorted(what) do
    it(("on %s: %s"):format(version, tostring(want)), function() fn(version, want) end)
  end
end

-- Runs a prompt whose messages nobody hears, to the end that every socket is told.
local function run_unheard(sim, ws, prompt, sid)
  local id = submit(sim, prompt, sid)
  read_until(ws, function(m) return short(m) == "status 0" end)
  return id
end

describe("sim: a cached output of a prompt without client_id is in the history", function()
  each({ ["2024-10"] = true, ["0.3.64"] = true, ["0.3.75"] = false, ["0.18.1"] = false }, function(version, shown)
    local sim <close> = server { version = version }
    local ws <close> = connect(sim, "a")
    local prompt = small()
    local function has(id) return history_of(sim, id).outputs["3"] ~= nil, history_of(sim, id).meta["3"] ~= nil end
    assert.are.same({ true, true }, { has(run_unheard(sim, ws, prompt)) }, "one that ran")
    assert.are.same({ shown, shown }, { has(run_unheard(sim, ws, prompt)) }, "one from the cache")
    assert.are.same({ true, true }, { has(run_unheard(sim, ws, prompt, "nobody who listens")) }, "one from the cache, with a client_id")
  end)
end)

describe("sim: feature flags", function()
  local plain = { supports_preview_metadata = true, max_upload_size = 104857600 }
  local whole = { supports_preview_metadata = true, max_upload_size = 104857600, extension = { manager = { supports_v4 = true } }, node_replacements = true, assets = false }
  for version, flags in K.sorted { ["0.3.64"] = plain, ["0.3.75"] = plain, ["0.18.1"] = whole } do
    it("of " .. version, function()
      local sim <close> = server { version = version }
      local ws <close> = connect(sim, "a")
      assert.are.same(flags, fetch(sim, "/features"))
      ws:send(json.encode { type = "feature_flags", data = {} })
      assert.are.same({ type = "feature_flags", data = flags }, next_message(ws))
    end)
  end
end)

-- The nodes that ran.
local function ran(list)
  local nodes = {}
  for _, m in ipairs(only(list, "executing")) do
    if m.data.node ~= json.null then nodes[#nodes + 1] = m.data.node end
  end
  table.sort(nodes)
  return nodes
end

describe("sim: cache none", function()
  local catalogue = [[{"Source": {"input": {"required": {}}, "output": ["IMAGE"]},
    "Sink": {"input": {"required": {"a": ["IMAGE"], "b": ["IMAGE"], "n": ["INT"]}}, "output": [], "output_node": true}}]]
  local source = { class_type = "Source", inputs = json.decode "{}" }
  local function sink(a, b, n) return { class_type = "Sink", inputs = { a = { a, 0 }, b = { b, 0 }, n = n } } end

  for _, version in ipairs { "2024-10", "0.3.64", "0.3.75", "0.18.1" } do
    it("leaves nothing to the next prompt on " .. version, function()
      local sim <close> = server { version = version, cache = "none" }
      local ws <close> = connect(sim, "a")
      for _ = 1, 2 do
        local list = run(sim, ws, "a", small())
        assert.are.equal("execution_cached", shorts(list)[4])
        assert.are.same({ "1", "2", "3" }, ran(list))
      end
    end)
  end

  describe("keeps a result till all that needs it has run, so that its twin need not run:", function()
    each({ ["0.3.64"] = true, ["0.3.75"] = false, ["0.18.1"] = false }, function(version, kept)
      local sim <close> = server { version = version, cache = "none", catalogue = catalogue }
      local ws <close> = connect(sim, "a")
      local list = run(sim, ws, "a", { ["1"] = source, ["2"] = source, ["3"] = sink("1", "2", 1) })
      assert.are.equal(kept and 2 or 3, #ran(list))
      assert.are.equal(kept and 2 or 1, #only(list, "executed"), "the output, and the twin from the cache")
      assert.are.equal(4, #ran(run(sim, ws, "a", { ["1"] = source, ["2"] = sink("1", "1", 1), ["3"] = source, ["4"] = sink("3", "3", 2) })), "the first one's is gone when the second comes")
    end)
  end)
end)

-- ---- prompts ---------------------------------------------------------------------------------------------------------------

local function refused(sim, body)
  local reply = request(sim, "POST", "/prompt", body)
  assert.are.equal(400, reply.status)
  return json.decode(reply.body), reply.body
end

describe("sim: a class that is not there, or none, is refused", function()
  each({ ["2024-10"] = "invalid_prompt", ["0.3.64"] = "invalid_prompt", ["0.3.75"] = "invalid_prompt", ["0.18.1"] = "missing_node_type" }, function(version, kind)
    local sim <close> = server { version = version }
    for _, node in ipairs { { class_type = "Nope", inputs = json.decode "{}" }, { inputs = json.decode "{}" } } do
      local answer, text = refused(sim, { prompt = { ["7"] = node } })
      assert.are.same({ kind, "Node ID '#7'" }, { answer.error.type, answer.error.details })
      local known = kind == "missing_node_type"
      assert.are.same(known and { node_id = "7", class_type = node.class_type or json.null, node_title = node.class_type or json.null } or {}, answer.error.extra_info)
      assert.matches(version == "2024-10" and '"node_errors": %[%]' or '"node_errors": {}', text)
    end
  end)
end)

describe("sim: a prompt that is an empty list, or has a text for a node", function()
  each({ ["2024-10"] = 400, ["0.3.64"] = 400, ["0.3.75"] = 400, ["0.18.1"] = 500 }, function(version, status)
    local sim <close> = server { version = version }
    for body, kind in pairs { ['{"prompt": []}'] = "prompt_no_outputs", ['{"prompt": {"1": "text"}}'] = "invalid_prompt" } do
      local reply = request(sim, "POST", "/prompt", body)
      assert.are.equal(status, reply.status)
      if status == 400 then
        assert.are.equal(kind, json.decode(reply.body).error.type)
        assert.matches(version == "2024-10" and '"node_errors": %[%]' or '"node_errors": {}', reply.body)
      end
    end
  end)
end)

describe("sim: no prompt at all is told as an object", function()
  each({ ["2024-10"] = false, ["0.3.64"] = true, ["0.3.75"] = true, ["0.18.1"] = true }, function(version, object)
    local sim <close> = server { version = version }
    local answer, text = refused(sim, {})
    assert.are.equal(object and "no_prompt" or "no prompt", object and answer.error.type or answer.error)
    assert.matches(object and '"node_errors": {}' or '"node_errors": %[%]', text)
  end)
end)

describe("sim: a link between types that do not fit is told as", function()
  each({ ["2024-10"] = "images, LATENT != IMAGE", ["0.3.64"] = "images, received_type(LATENT) mismatch input_type(IMAGE)", ["0.3.75"] = "images, received_type(LATENT) mismatch input_type(IMAGE)",
    ["0.18.1"] = "images, received_type(LATENT) mismatch input_type(IMAGE)" }, function(version, words)
    local sim <close> = server { version = version }
    local prompt = text_to_image()
    prompt["9"].inputs.images = { "3", 0 }
    assert.are.equal(words, refused(sim, { prompt = prompt }).node_errors["9"].errors[1].details)
  end)
end)

describe("sim: types that have one in common fit", function()
  each({ ["2024-10"] = false, ["0.3.64"] = true, ["0.3.75"] = true, ["0.18.1"] = true }, function(version, fit)
    local sim <close> = server { version = version, catalogue = [[{"Two": {"input": {"required": {}}, "output": ["IMAGE,MASK"]}, "One": {"input": {"required": {}}, "output": ["MASK"]},
      "Takes": {"input": {"required": {"a": ["MASK,LATENT"], "b": ["MASK,LATENT"]}}, "output": [], "output_node": true}}]] }
    local nothing = json.decode "{}"
    local reply = request(sim, "POST", "/prompt", { prompt = { ["1"] = { class_type = "Two", inputs = nothing }, ["2"] = { class_type = "One", inputs = nothing },
      ["3"] = { class_type = "Takes", inputs = { a = { "1", 0 }, b = { "2", 0 } } } } })
    assert.are.equal(fit and 200 or 400, reply.status)
    if not fit then assert.are.equal(2, #json.decode(reply.body).node_errors["3"].errors) end
  end)
end)

describe("sim: the choice of a new combo is checked", function()
  each({ ["2024-10"] = false, ["0.3.64"] = false, ["0.3.75"] = false, ["0.18.1"] = true }, function(version, checked)
    local sim <close> = server { version = version, catalogue = [[{"Choose": {"input": {"required": {"it": ["COMBO", {"options": ["a", "b"]}]}}, "output": [], "output_node": true}}]] }
    assert.are.equal(checked and 400 or 200, request(sim, "POST", "/prompt", { prompt = { ["1"] = { class_type = "Choose", inputs = { it = "c" } } } }).status)
  end)
end)

describe("sim: a value in {__value__} is looked into", function()
  each({ ["2024-10"] = false, ["0.3.64"] = true, ["0.3.75"] = true, ["0.18.1"] = true }, function(version, looked)
    local sim <close> = server { version = version }
    local prompt = small()
    prompt["1"].inputs.color = { __value__ = 5 }
    assert.are.equal(looked and 200 or 400, request(sim, "POST", "/prompt", { prompt = prompt }).status)
  end)
end)

describe("sim: the client's prompt_id is taken", function()
  each({ ["2024-10"] = false, ["0.3.64"] = true, ["0.3.75"] = true, ["0.18.1"] = true }, function(version, taken)
    local sim <close> = server { version = version }
    local id = "aaaaaaaa-0000-4000-8000-000000000001"
    assert.are.equal(taken, submit(sim, small(), "a", { prompt_id = id }) == id)
  end)
end)

describe("sim: partial_execution_targets are looked at", function()
  each({ ["2024-10"] = false, ["0.3.64"] = true, ["0.3.75"] = true, ["0.18.1"] = true }, function(version, looked)
    local sim <close> = server { version = version }
    assert.are.equal(looked and 400 or 200, request(sim, "POST", "/prompt", { prompt = small(), partial_execution_targets = { "1" } }).status)
  end)
end)

-- ---- messages --------------------------------------------------------------------------------------------------------------

local costs = { KSampler = { ms = 0, step_ms = 1000 }, CheckpointLoaderSimple = 1, CLIPTextEncode = 1, VAEDecode = 1, SaveImage = 1 }

describe("sim: 50 steps of 10 ms are told in", function()
  each({ ["2024-10"] = 50, ["0.3.64"] = 50, ["0.3.75"] = 50, ["0.18.1"] = 6 }, function(version, n)
    local sim <close> = server { version = version, costs = costs }
    local ws <close> = connect(sim, "a")
    local list = run(sim, ws, "a", text_to_image { steps = 50 })
    assert.are.equal(n, #only(list, "progress"))
    assert.are.equal(version == "2024-10" and 0 or 14 + n, #only(list, "progress_state"))
  end)
end)

describe("sim: preview_method of a prompt is looked at", function()
  each({ ["2024-10"] = false, ["0.3.64"] = false, ["0.3.75"] = false, ["0.18.1"] = true }, function(version, looked)
    for _, on in ipairs { true, false } do         -- what the server does of itself; the prompt wants the contrary
      local sim <close> = server { version = version, previews = on }
      local ws <close> = connect(sim, "a")
      local list = run(sim, ws, "a", text_to_image { steps = 3 }, { extra_data = { preview_method = on and "none" or "taesd" } })
      assert.are.equal((on ~= looked) and 3 or 0, #only(list, "binary"))
    end
  end)
end)

describe("sim: previews say whose they are, when the client understands it", function()
  each({ ["2024-10"] = false, ["0.3.64"] = true, ["0.3.75"] = true, ["0.18.1"] = true }, function(version, say)
    local sim <close> = server { version = version, previews = true }
    local ws <close> = connect(sim, "a")
    ws:send(json.encode { type = "feature_flags", data = { supports_preview_metadata = true } })
    if say then next_message(ws) end
    for _, m in ipairs(only(run(sim, ws, "a", text_to_image { steps = 3 }), "binary")) do assert.are.equal(say and "binary 4" or "binary 1", short(m)) end
  end)
end)

describe("sim: the words of an exception end in a new line", function()
  each({ ["2024-10"] = false, ["0.3.64"] = true, ["0.3.75"] = true, ["0.18.1"] = true }, function(version, ends)
    local sim <close> = server { version = version }
    local ws <close> = connect(sim, "a")
    sim:fail { message = "broken" }
    assert.are.equal(ends and "broken\n" or "broken", only(run(sim, ws, "a", small()), "execution_error")[1].data.exception_message)
  end)
end)

-- ---- other routes ------------------------------------------------------------------------------------------------------------

describe("sim: the jobs API is there", function()
  each({ ["2024-10"] = false, ["0.3.64"] = false, ["0.3.75"] = false, ["0.18.1"] = true }, function(version, there)
    local sim <close> = server { version = version }
    local id = submit(sim, small(), "a")
    for _, path in ipairs { "/api/jobs?limit=1", "/api/jobs/" .. id } do assert.are.equal(there and 200 or 404, get(sim, path).status) end
  end)
end)

describe("sim: system_stats tells version and os", function()
  each({ ["2024-10"] = "unknown posix", ["0.3.64"] = "0.3.64 posix", ["0.3.75"] = "0.3.75 posix", ["0.18.1"] = "0.18.1 linux" }, function(version, words)
    local sim <close> = server { version = version }
    local system = fetch(sim, "/system_stats").system
    assert.are.equal(words, system.comfyui_version .. " " .. system.os)
    for _, name in ipairs { "required_frontend_version", "installed_templates_version", "required_templates_version" } do
      assert.are.equal(version == "2024-10", system[name] == nil, name)
    end
  end)
end)

describe("sim: an interrupt may name its prompt", function()
  each({ ["2024-10"] = false, ["0.3.64"] = true, ["0.3.75"] = true, ["0.18.1"] = true }, function(version, may)
    local sim <close> = server { version = version, costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local id = occupy(sim, ws, "a")
    interrupt(sim, "another one")
    if may then S.everything(ws) end               -- what was told before it
    read_until(ws, may and function(m) return m.type == "progress" end or is_end(id))
    assert.are.equal(may and 0 or 1, sim:record().interrupted)
  end)
end)

describe("sim: the history has an offset", function()
  each({ ["2024-10"] = false, ["0.3.64"] = true, ["0.3.75"] = true, ["0.18.1"] = true }, function(version, has)
    local sim <close> = server { version = version }
    local ws <close> = connect(sim, "a")
    local ids = {}
    for i = 1, 2 do ids[i] = select(2, run(sim, ws, "a", small(i))) end
    assert.are.equal(ids[has and 1 or 2], (next(fetch(sim, "/history?max_items=1&offset=0"))))
    assert.are.equal(has and 500 or 200, get(sim, "/history?offset=x").status)
  end)
end)

describe("sim: queue and history have create_time and no keys", function()
  each({ ["2024-10"] = false, ["0.3.64"] = false, ["0.3.75"] = true, ["0.18.1"] = true }, function(version, new)
    local sim <close> = server { version = version }
    local ws <close> = connect(sim, "a")
    local _, id = run(sim, ws, "a", small(), { extra_data = { api_key_comfy_org = "secret", auth_token_comfy_org = "secret" } })
    local extra = history_of(sim, id).prompt[4]
    assert.are.same({ new, not new, not new }, { extra.create_time ~= nil, extra.api_key_comfy_org ~= nil, extra.auth_token_comfy_org ~= nil })
  end)
end)
