-- tests/regress/040-who-else.lua: where a job may go when some client does not take it as it is. A value that one client refused
-- ended the job when the others were paused or away; the first of two variants that was refused for a value took the second along;
-- only names of models were respelled; and of more than sixteen free clients some were never offered.
local moonpool = require "moonpool"
local K = require "kit"

describe("a job that a client refuses for a value", function()
  after_each(K.clean)

  -- The catalogue of a sim, changed.
  local function catalogue(from, to)
    local _, client = K.pool_of { K.sim() }
    local text, n = moonpool.json.encode(client:object_info()):gsub(from, to, 1)
    assert(n == 1)
    return text
  end

  it("waits for a client that is paused, and for one that is away", function()
    local without = catalogue('"euler",', "")
    for how, away in K.sorted { paused = function(cb) cb:pause() end, away = function(cb, b)
      b:restart(400)
      K.till("it is away", function() return not cb.online end)
    end } do
      local b = K.sim()
      local pool, _, cb = K.pool_of({ { K.sim { catalogue = without }, { name = "a", priority = 5 } }, { b, { name = "b" } } }, { policy = K.by_priority })
      away(cb, b)
      local seen = K.events(pool, "job:retrying")
      local job = pool:submit(K.picture())
      K.till("a has refused it", function() return #seen == 1 end)
      K.turns()
      assert.is_false(job.ended, how)
      cb:resume()
      local r = K.completed(job)
      assert.equal("b", r.client, how)
      assert.equal(1, #seen, how)                                 -- a was not asked again and again meanwhile
    end
  end)

  it("ends when nobody else is there who could take it", function()
    local pool = K.pool_of { { K.sim { catalogue = catalogue('"euler",', "") }, { name = "a" } } }
    local r = K.ended(pool:submit(K.picture()))
    assert.same({ "failed", "client_incompatible" }, { r.status, r.error.kind })
  end)

  it("goes on as its other variant on the same client", function()
    local pool = K.pool_of { K.sim() }
    local r = K.completed(pool:submit_variants { K.picture():input("3", "sampler_name", "nope"), K.two_outputs() })
    assert.equal(K.two_outputs().structure_hash, r.workflow.structure_hash)
  end)

  it("is respelled when the choice differs in its slashes only, whatever it names", function()
    local text = catalogue('"normal",', '"fonts\\\\arial.ttf","normal",')
    local pool = K.pool_of { K.sim { catalogue = text } }
    local blocked = K.events(pool, "client:blocked_workflow")
    local r = K.completed(pool:submit(K.picture():input("3", "scheduler", "fonts/arial.ttf")))
    assert.equal("fonts\\arial.ttf", r.workflow:input("3", "scheduler"))
    local bad = K.ended(pool:submit(K.picture():input("3", "scheduler", "fonts/times.ttf")))
    assert.equal("client_incompatible", bad.error.kind)
    K.completed(pool:submit(K.picture(2)))                        -- its hash is not blocked for that
    assert.equal(0, #blocked)
  end)
end)

describe("a variant", function()
  after_each(K.clean)

  it("that a client has blocked is not what is sent there after the other failed", function()
    local s = K.sim()
    s:fail { class = "KSampler", message = "once", times = 1 }
    local pool = K.pool_of { { s, { slots = 1 } } }
    local r = K.completed(pool:submit_variants({ K.picture():input("4", "ckpt_name", "not_here.safetensors"), K.picture() }, { max_attempts = 3 }))
    assert.equal(2, r.attempts)
    assert.is_true(s:record().prompts <= 2)
  end)
end)

describe("a look in the catalogue", function()
  after_each(K.clean)
  local scripted = K.scripted(it, pending)

  scripted("that failed is no proof that a name is not there", function()
    local s = K.server { models = { "sub\\preset" }, status = { ["/object_info/CheckpointLoaderSimple"] = { 502 } } }
    local pool = K.pool_of({ s }, { catalogue_ms = 50 })
    for i = 1, 2 do
      local r = K.completed(pool:submit(K.picture(i):input("4", "ckpt_name", "sub/preset")))
      assert.equal("sub\\preset", r.workflow:input("4", "ckpt_name"))
    end
  end)

  scripted("is not what a job waits for that another client may run after its rest", function()
    local a, b = K.server { models = { "x" } }, K.server { models = { "preset" }, errors = { { type = "RuntimeError", message = "once", node = "3" } } }
    local pool = K.pool_of({ { a, { name = "a" } }, { b, { name = "b" } } }, { cooldown_ms = 300 })
    local one = K.ended(pool:submit(K.picture(1):input("4", "ckpt_name", "preset"), { excluded_clients = { "a" }, max_attempts = 1 }))
    assert.equal("failed", one.status)
    assert.equal("b", K.completed(pool:submit(K.picture(2):input("4", "ckpt_name", "preset"))).client)
  end)
end)

describe("of more than sixteen free clients", function()
  after_each(K.clean)

  it("the one that holds the models is offered, and round_robin gives each its turn", function()
    local pool, n = K.pool { policy = "round_robin" }, 18
    for i = 1, n do pool:add_client(K.sim().url, { name = ("c%02d"):format(i) }) end
    assert(pool:init())
    K.till("all are online", function() return pool:stats().online == n end)
    local counts = {}
    for i = 1, 3 * n do
      local client = K.completed(pool:submit(K.picture(i))).client
      counts[client] = (counts[client] or 0) + 1
    end
    for i = 1, n do assert.equal(3, counts[("c%02d"):format(i)]) end
  end)

  it("the default policy finds the one that is warm, and the one that holds the models", function()
    local pool, n = K.pool { policy = "default" }, 18
    for i = 1, n do pool:add_client(K.sim().url, { name = ("c%02d"):format(i) }) end
    assert(pool:init())
    K.till("all are online", function() return pool:stats().online == n end)
    for i = 1, n - 1 do pool:client(("c%02d"):format(i)):pause() end
    K.completed(pool:submit(K.picture(1)))
    for i = 1, n - 1 do pool:client(("c%02d"):format(i)):resume() end
    assert.equal("c18", K.completed(pool:submit(K.picture(2))).client)
    assert.equal("c18", K.completed(pool:submit(K.two_outputs())).client)
  end)
end)
