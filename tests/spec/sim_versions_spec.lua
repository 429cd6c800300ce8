-- tests/spec/sim_versions_spec.lua: what one simulated version does and another does not (section 7 of comfyui-protocol.md). 0.18.1 and
-- 2024-10 are held against recordings too; 0.3.64 and 0.3.75 only here.
local S = require "simkit"
local K = require "kit"
local moonpool = require "moonpool"
local json = moonpool.json
local server, request, get, fetch, connect, submit, run = S.server, S.request, S.get, S.fetch, S.connect, S.submit, S.run
local next_message, read_until, short, shorts, only, small, history_of = S.next_message, S.read_until, S.short, S.shorts, S.only, S.small, S.history_of

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
