-- tests/spec/sim_recordings_spec.lua: the simulated server answers recorded requests as the real servers did.
local H = require "helper"
local moonpool = require "moonpool"
local json = moonpool.json

local versions = { "0.18.1", "2024-10" }

-- Outputs are judged in the order of a Python set, and each one that fails is added to every node found faulty so far,
-- even to one it does not need. Both orders were recorded, one by each version; either will do.
local either = {
  ["two required inputs missing on one node, one on another"] = {
    { ["1"] = { "2", "3" }, ["2"] = { "2" } },
    { ["1"] = { "3" }, ["2"] = { "2", "3" } },
  },
}

local function folder(version) return H.shared .. "/recordings/" .. version .. "/" end

local function catalogue(version)
  local p = assert(io.popen("zcat '" .. folder(version) .. "object_info.json.gz'"))
  local text = p:read "a"
  p:close()
  assert.is_true(#text > 100000)
  return text
end

-- Every line of a scenario, decoded; `raw` is the line, `note` what the last note said.
local function scenario(version, name)
  local list, note = {}, nil
  for line in io.lines(folder(version) .. name .. ".jsonl") do
    local d = assert(json.decode(line))
    if d.dir == "note" then note = d.text end
    d.raw, d.note = line, note
    list[#list + 1] = d
  end
  return list
end

-- The bytes of a request's body, as recorded: text taken literally, or the JSON as it stands in the line.
local function body_of(d)
  if d.request_text then return d.request_text end
  local at = select(2, d.raw:find('"request_json": ', 1, true)) + 1
  return d.raw:match("^%b{}", at) or d.raw:match("^%b[]", at)
end

-- A value as text that does not depend on the order of keys, nor on that of errors and dependent outputs; without
-- tracebacks. 9 and 9.0 are the same number.
local function canon(v, name)
  if type(v) == "number" then return ("%.17g"):format(v) end
  if type(v) == "string" then return ("%q"):format(v) end
  if type(v) ~= "table" then return tostring(v) end
  local parts = {}
  if json.encode(v):sub(1, 1) == "[" then
    for i, x in ipairs(v) do parts[i] = canon(x) end
    if name == "errors" or name == "dependent_outputs" then table.sort(parts) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for k, x in pairs(v) do
    if k ~= "traceback" then parts[#parts + 1] = ("%q:"):format(k) .. canon(x, k) end
  end
  table.sort(parts)
  return "{" .. table.concat(parts, ",\n") .. "}"
end

local function post(sim, path, body)
  return assert(moonpool.http.request { method = "POST", url = sim.url .. path, body = body })
end

-- One frame by its type; binary frames by their number.
local function kind(data, binary)
  if binary then return "binary" .. string.unpack(">I4", data) end
  return json.decode(data).type
end

-- Reads until the prompt's end; the types of what came, in order.
local function types_until_end(ws, id)
  local list = {}
  while true do
    local data, binary = ws:receive(10000)
    assert.is_truthy(data, "the end of the prompt did not come; so far: " .. table.concat(list, " "))
    list[#list + 1] = kind(data, binary)
    if not binary and list[#list] == "executing" then
      local m = json.decode(data).data
      if m.node == json.null and m.prompt_id == id then return list end
    end
  end
end

-- The recorded types for each POST /prompt of a scenario, and its body.
local function recorded_runs(version, name)
  local runs, frames = {}, {}
  for _, d in ipairs(scenario(version, name)) do
    if d.dir == "http" and d.path == "/prompt" then
      runs[#runs + 1] = { body = body_of(d), id = d.response_json.prompt_id, types = {} }
    elseif d.dir == "http" and d.path:find "^/history/" then
      for _, r in ipairs(runs) do
        if d.path == "/history/" .. r.id then r.history = d.response_json[r.id] end
      end
    elseif d.dir == "ws" and (d.text or d.binary_base64) then
      frames[#frames + 1] = d.text and json.decode(d.text) or { type = "binary" .. (d.binary_base64:sub(1, 6) == "AAAAAQ" and 1 or 4) }
    end
  end
  table.remove(frames, 1)                      -- the status of the connection
  local k = 1
  for _, f in ipairs(frames) do                -- frames and HTTP come in no sure order: each run ends with its own null
    table.insert(runs[k].types, f.type)
    if f.type == "executing" and f.data.node == json.null then k = k + 1 end
  end
  return runs
end

local function names(t)
  local list = {}
  for k in pairs(t) do list[#list + 1] = k end
  table.sort(list)
  return list
end

local function message_names(history)
  local list = {}
  for i, m in ipairs(history.status.messages) do list[i] = m[1] end
  return list
end

if not H.has_shared() then
  describe("the sim beside the recordings", function()
    it("needs ../shared", function() pending "no recordings beside the checkout" end)
  end)
  return
end

for _, version in ipairs(versions) do
  describe("POST /prompt of " .. version .. " refuses as recorded:", function()
    local sim
    setup(function() sim = assert(moonpool.sim { speed = 1000, version = version, catalogue = catalogue(version) }) end)
    teardown(function() sim:close() end)
    for i, d in ipairs(scenario(version, "validation_errors")) do
      if d.dir == "http" and d.method == "POST" and d.path == "/prompt" then
        it(("%s (line %d)"):format(d.note, i), function()
          local reply = post(sim, "/prompt", body_of(d))
          assert.are.equal(d.status, reply.status)
          assert.are.equal(d.content_type, reply.content_type)
          if not d.response_json then return assert.are.equal(d.response_text, reply.body) end
          local got, want = assert(json.decode(reply.body)), d.response_json
          if want.prompt_id then
            assert.matches("^%x+%-%x+%-4%x+%-%x+%-%x+$", got.prompt_id)
            assert.are.equal("integer", math.type(got.number))
            got.prompt_id, got.number = want.prompt_id, want.number
          end
          local orders = either[d.note]
          if orders then
            local found = false
            for _, order in ipairs(orders) do
              for id, outputs in pairs(order) do want.node_errors[id].dependent_outputs = outputs end
              found = found or canon(want) == canon(got)
            end
            return assert.is_true(found, "neither order of judging the outputs gives " .. reply.body)
          end
          assert.are.equal(canon(want), canon(got))
        end)
      end
    end
  end)

  describe("messages of " .. version .. " come in the recorded order:", function()
    local text = catalogue(version)
    for _, name in ipairs { "normal_run", "cached_rerun", "partly_cached", "text_to_image" } do
      describe(name, function()
        local sim, ws, runs
        setup(function()
          sim = assert(moonpool.sim { speed = 1000, version = version, catalogue = text, previews = true })
          runs = recorded_runs(version, name)
          ws = assert(moonpool.ws.connect { url = sim.url:gsub("^http", "ws") .. "/ws?clientId=" .. json.decode(runs[1].body).client_id })
          assert.are.equal("status", kind(assert(ws:receive(10000))))
          for _, r in ipairs(runs) do
            local reply = post(sim, "/prompt", r.body)
            assert.are.equal(200, reply.status)
            r.own_id = json.decode(reply.body).prompt_id
            r.own_types = types_until_end(ws, r.own_id)
            local h = assert(moonpool.http.request { url = sim.url .. "/history/" .. r.own_id })
            r.own_history = assert(json.decode(h.body))[r.own_id]
          end
        end)
        teardown(function() ws:close(); sim:close() end)

        it("types", function()
          for i, r in ipairs(runs) do
            -- Whether a cached output is announced before or after a node that runs is the server's choice (a set).
            if name == "partly_cached" and i == 3 then table.sort(r.types); table.sort(r.own_types) end
            assert.are.same(r.types, r.own_types, "run " .. i)
          end
        end)

        it("history: fields, messages, extra data", function()
          for i, r in ipairs(runs) do
            if r.history then
              local want, got = r.history, r.own_history
              assert.are.same(names(want), names(got), "run " .. i)
              assert.are.same(names(want.status), names(got.status), "run " .. i)
              assert.are.equal(want.status.status_str, got.status.status_str)
              assert.are.equal(want.status.completed, got.status.completed)
              assert.are.same(message_names(want), message_names(got), "run " .. i)
              assert.are.same(names(want.outputs), names(got.outputs), "run " .. i)
              assert.are.equal(canon(want.prompt[3]), canon(got.prompt[3]), "run " .. i)
              assert.are.same(names(want.prompt[4]), names(got.prompt[4]), "run " .. i .. ", extra_data")
              table.sort(want.prompt[5])         -- outputs to run: a set
              table.sort(got.prompt[5])
              assert.are.same(want.prompt[5], got.prompt[5], "run " .. i)
            end
          end
        end)

        it("history: meta, with the old node id where a renumbered node was cached", function()
          for i, r in ipairs(runs) do
            if r.history then assert.are.equal(canon(r.history.meta), canon(r.own_history.meta), "run " .. i) end
          end
        end)
      end)
    end
  end)
end
