-- Where profiles live: the log, its lines, several writers, what is torn, rotation.
local H = require "helper"
local K = require "kit"
local moonpool = require "moonpool"
local json = moonpool.json

after_each(K.clean)

local function lines_of(path)
  local list = {}
  for line in io.lines(path) do list[#list + 1] = line end
  return list
end

-- Runs that many pictures through a pool that writes this log.
local function run(path, count, options, submit_options)
  local o = { profile_log = path }
  for k, v in pairs(options or {}) do o[k] = v end
  local pool = K.pool_of({ K.sim() }, o)
  for i = 1, count do pool:submit(K.picture(i), submit_options) end
  local results = {}
  for r in pool:results() do results[#results + 1] = r end
  pool:shutdown()
  return results
end

describe("the profile log", function()
  it("has one line per job: the profile, and what it belongs to", function()
    local path = H.folder "log" .. "/runs.jsonl"
    local results = run(path, 5, { profile_label = "base" }, { metadata = { user = "ada" } })
    local lines = lines_of(path)
    assert.equal(5, #lines)
    local by_id = {}
    for _, r in ipairs(results) do by_id[r.job_id] = r end
    for _, line in ipairs(lines) do
      local x = assert(json.decode(line))
      local r = by_id[x.jobId]
      assert.same({ 1, "base", "completed", "0.18.1", "Moonpool Simulated GPU", { user = "ada" }, "http://" .. r.client },
        { x.schema, x.label, x.jobStatus, x.serverVersion, x.device, x.metadata, x.clientUrl })
      for name, value in pairs(r.profile) do
        if name == "nodes" then
          for i, n in ipairs(value) do
            for field, v in pairs(n) do assert.same(v, x.nodes[i][field], field) end
          end
        else assert.same(value, x[name], name) end
      end
    end
  end)

  it("holds the inputs of each node as they were sent, long ones shortened but told apart", function()
    local path = H.folder "log" .. "/runs.jsonl"
    local long = ("a lighthouse \"é\" \\ "):rep(40)
    local pool = K.pool_of({ K.sim() }, { profile_log = path })
    for _, text in ipairs { "short", long, long .. "!" } do K.completed(pool:submit(K.picture():input("6", "text", text))) end
    pool:shutdown()
    local texts = {}
    for i, line in ipairs(lines_of(path)) do
      for _, n in ipairs(json.decode(line).nodes) do
        if n.nodeId == "6" then
          texts[i] = n.inputs.text
          assert.same({ "4", 1 }, n.inputs.clip)
        end
      end
    end
    assert.equal("short", texts[1])
    assert.equal(long:sub(1, 60), texts[2]:sub(1, 60))
    assert.is_true(#texts[2] < 200)
    assert.is_true(texts[2] ~= texts[3])
  end)

  it("has failed, canceled and never sent jobs too, and none without a profile", function()
    local path = H.folder "log" .. "/runs.jsonl"
    local s = K.sim()
    local pool = K.pool_of({ s }, { profile_log = path, max_attempts = 1 })
    s:fail { class = "KSampler", message = "no \"luck\"\nat all" }
    K.ended(pool:submit(K.picture(1)))
    local job = pool:submit(K.picture(2), { delay_ms = 100000 })
    job:cancel()
    K.ended(job)
    K.completed(pool:submit(K.picture(3), { profiling = false }))
    pool:shutdown()
    local lines = lines_of(path)
    assert.equal(2, #lines)
    local failed, canceled = json.decode(lines[1]), json.decode(lines[2])
    assert.same({ "failed", "canceled" }, { failed.jobStatus, canceled.jobStatus })
    assert.match('no "luck"', failed.jobError)
    assert.is_nil(canceled.startedAt)
  end)

  it("is appended to, and a line that somebody left torn is ended first", function()
    local path = H.folder "log" .. "/runs.jsonl"
    H.write(path, '{"schema":1,"jobId":"torn')
    run(path, 2)
    local lines = lines_of(path)
    assert.equal(3, #lines)
    assert.equal('{"schema":1,"jobId":"torn', lines[1])
    assert.is_table(json.decode(lines[2]))
  end)

  it("is written by several processes at once, whole lines only", function()
    local dir = H.folder "log"
    local path = dir .. "/runs.jsonl"
    H.write(dir .. "/one.lua", [[
      local moonpool = require "moonpool"
      local s <close> = moonpool.sim { any_node = true, any_ms = 0.1, speed = 1000 }
      local pool = moonpool.pool { profile_log = arg[1], profile_label = arg[2], log_level = "error" }
      pool:add_client(s.url)
      for i = 1, 60 do pool:submit(moonpool.workflow.from { ["1"] = { class_type = "X", inputs = { seed = i, text = ("x"):rep(90) } } }) end
      for r in pool:results() do assert(r.status == "completed") end
      pool:shutdown()
    ]])
    local command = {}
    for i = 1, 4 do command[i] = ("%s %s/one.lua %s w%d &"):format(H.moonpool, dir, path, i) end
    local out = H.run("(" .. table.concat(command, " ") .. " wait)")
    assert.equal("", out)
    local count = {}
    for _, line in ipairs(lines_of(path)) do
      local x = assert(json.decode(line))
      count[x.label] = (count[x.label] or 0) + 1
    end
    assert.same({ w1 = 60, w2 = 60, w3 = 60, w4 = 60 }, count)
  end)

  it("starts a new file before it grows beyond its bound, and keeps so many old ones", function()
    local path = H.folder "log" .. "/runs.jsonl"
    for _ = 1, 4 do run(path, 6, { profile_log_bytes = 9000, profile_log_keep = 2 }) end
    assert.is_nil(io.open(path .. ".3"))
    for _, name in ipairs { path, path .. ".1", path .. ".2" } do
      local size = #H.read(name)
      assert.is_true(size > 0 and size <= 9000, name .. ": " .. size)
      for _, line in ipairs(lines_of(name)) do assert.is_table(json.decode(line)) end
    end
  end)

  it("that cannot be opened is an error of the pool; one that cannot be written is a log line, and the jobs go on", function()
    assert.error_matches(function() moonpool.pool { profile_log = "/nowhere/at/all.jsonl" } end, "option 'profile_log': /nowhere/at/all.jsonl: No such file")
    if not io.open "/dev/full" then return pending "no /dev/full here" end
    local told = {}
    local pool = K.pool_of({ K.sim() }, { profile_log = "/dev/full" })
    pool:on("error", function(e) told[#told + 1] = e.message end)
    K.completed(pool:submit(K.picture()))
    K.till("it is told", function() return #told > 0 end)
    assert.match("profile log: /dev/full: No space left", told[1])
    K.completed(pool:submit(K.picture(2)))
  end)

  it("keeps no part of a line for which there is no room", function()
    local dir = H.folder "log"
    H.write(dir .. "/script.lua", [[
      local moonpool = require "moonpool"
      local s <close> = moonpool.sim { any_node = true, any_ms = 0.1, speed = 1000 }
      local pool <close> = moonpool.pool { profile_log = arg[1], log_level = "silent" }
      local told = 0
      pool:on("error", function(e) assert(e.message:find("File too large", 1, true) or e.message:find("No space left", 1, true), e.message); told = told + 1 end)
      pool:add_client(s.url)
      for k = 1, 12 do
        local job = pool:submit(moonpool.workflow.from { ["1"] = { class_type = "X", inputs = { seed = k, text = ("x"):rep(90) } } })
        assert(assert(job:wait()).status == "completed")
      end
      for _ = 1, 6000 do if told == 0 then moonpool.sleep(5) end end
      assert(told > 0, "nothing was told")
      pool:shutdown()
    ]])
    -- files may not grow beyond 8 blocks of 512 or 1,024 bytes: the write that meets the bound is cut short
    local out, code = H.run(("trap '' XFSZ; ulimit -f 8; %s %s/script.lua %s/runs.jsonl"):format(H.moonpool, dir, dir))
    assert.same({ "", 0 }, { out, code })
    local text = H.read(dir .. "/runs.jsonl")
    assert.equal("\n", text:sub(-1))
    local lines = lines_of(dir .. "/runs.jsonl")
    assert.is_true(#lines >= 1 and #lines < 12, #lines .. " lines")
    for _, line in ipairs(lines) do assert.is_table(json.decode(line)) end
  end)

  it("is no reason for other requests: servers see the same with profiling, with the log, and with neither", function()
    local seen = {}
    for i, o in ipairs { { profiling = false }, { profiling = true }, { profile_log = H.folder "log" .. "/runs.jsonl" } } do
      local s = K.sim()
      local pool = K.pool_of({ s }, o)
      for k = 1, 10 do K.completed(pool:submit(K.picture(k))) end
      pool:shutdown()
      seen[i] = s:record().requests
    end
    assert.same({ seen[1], seen[1], seen[1] }, seen)
  end)
end)

describe("moonpool --profile-log", function()
  it("gives the script's pools a log, but those that have one", function()
    local dir = H.folder "log"
    H.write(dir .. "/script.lua", [[
      local moonpool = require "moonpool"
      local s <close> = moonpool.sim { any_node = true, any_ms = 0.1, speed = 1000 }
      for i, options in ipairs { { log_level = "error" }, { profile_log = arg[1] } } do
        local pool <close> = moonpool.pool(options)
        pool:add_client(s.url)
        for k = 1, i do pool:submit(moonpool.workflow.from { ["1"] = { class_type = "X", inputs = { seed = k } } }):wait() end
      end
    ]])
    assert.equal("", (H.run(("%s --profile-log %s/a %s/script.lua %s/b"):format(H.moonpool, dir, dir, dir))))
    assert.same({ 1, 2 }, { #lines_of(dir .. "/a"), #lines_of(dir .. "/b") })
    local text, code = H.run(H.moonpool .. " --profile-log")
    assert.equal(2, code)
    assert.match("needs a file", text)
  end)
end)

-- ---- the schema, src/prof/profile.schema.json ------------------------------------------------------------------------

local array = getmetatable(json.array {})
local function is_array(t) return getmetatable(t) == array or #t > 0 end

-- As much of JSON Schema as that file uses; the first thing that is wrong, with its place.
local function wrong(root, rule, value, place)
  if rule["$ref"] then return wrong(root, root["$defs"][rule["$ref"]:match "[^/]+$"], value, place) end
  local kind = type(value)
  if rule.const ~= nil and value ~= rule.const then return place .. ": not " .. tostring(rule.const) end
  if rule.enum then
    local among = false
    for _, v in ipairs(rule.enum) do among = among or v == value end
    if not among then return ("%s: %s is none of the words"):format(place, tostring(value)) end
  end
  local is = { object = kind == "table" and not is_array(value), array = kind == "table" and (is_array(value) or next(value) == nil), string = kind == "string", number = kind == "number",
    integer = math.type(value) == "integer", boolean = kind == "boolean" }
  if rule.type and not is[rule.type] then return ("%s: %s expected, got %s"):format(place, rule.type, kind) end
  if rule.minimum and value < rule.minimum then return ("%s: %s is below %s"):format(place, value, rule.minimum) end
  if rule.maxItems and #value > rule.maxItems then return place .. ": too many" end
  for _, name in ipairs(rule.required or {}) do
    if value[name] == nil then return place .. ": " .. name .. " is missing" end
  end
  for i, v in ipairs(rule.items and value or {}) do
    local words = wrong(root, rule.items, v, place .. "[" .. i .. "]")
    if words then return words end
  end
  for k, v in pairs(rule.properties and value or {}) do
    local one = rule.properties[k]
    if not one and rule.additionalProperties == false then return place .. ": " .. k .. " is not in the schema" end
    local words = one and wrong(root, one, v, place .. "." .. k)
    if words then return words end
  end
end

describe("the JSON Schema of a profile", function()
  local schema = assert(json.decode(H.read "src/prof/profile.schema.json"))
  local function check(x) return wrong(schema, schema, x, "profile") end

  it("holds for every line of a log: completed, cached, failed, canceled, retried, never sent", function()
    local path = H.folder "log" .. "/runs.jsonl"
    local s = K.sim()
    local pool = K.pool_of({ s }, { profile_log = path, profile_label = "x", max_attempts = 2 })
    K.completed(pool:submit(K.picture(1), { metadata = { a = { 1, 2 } } }))
    K.completed(pool:submit(K.picture(1)))
    s:fail { class = "KSampler", times = 3, message = "no" }
    K.ended(pool:submit(K.picture(2)))
    K.completed(pool:submit(K.picture(3)))
    local job = pool:submit(K.picture(4), { delay_ms = 100000 })
    job:cancel()
    K.ended(job)
    pool:shutdown()
    local seen = {}
    for _, line in ipairs(lines_of(path)) do
      local x = json.decode(line)
      assert.is_nil(check(x))
      seen[x.jobStatus] = (seen[x.jobStatus] or 0) + 1
    end
    assert.same({ completed = 3, failed = 1, canceled = 1 }, seen)
  end)

  it("holds for result.profile, and can fail", function()
    local p = K.completed(K.pool_of({ K.sim() }):submit(K.picture())).profile
    assert.is_nil(check(p))
    p.nodes[1].status = "happy"
    assert.match("profile.nodes%[1%].status: happy is none", check(p))
    p.nodes[1].status, p.colour = "completed", "red"
    assert.match("colour is not in the schema", check(p))
    p.colour, p.summary = nil, nil
    assert.match("summary is missing", check(p))
  end)
end)
