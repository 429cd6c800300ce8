-- tests/regress/014-asked-once.lua: an interrupt was lost, the socket fell soon after and came back; the prompt was seen to
-- run before the next interrupt was due, and nobody looked at it again.
local K = require "kit"
local scripted = K.scripted(it, pending)

describe("a canceled prompt whose interrupt was lost, and then the socket", function()
  after_each(K.clean)

  scripted("is interrupted again", function()
    local s = K.server { hold = "running", status = { ["/interrupt"] = { 500 } } }
    local pool, c = K.pool_of({ s }, { poll_ms = 3600000 })
    local job = pool:submit(K.picture())
    K.till("it runs", function() return job.status == "running" end)
    job:cancel()
    K.till("it was told to stop", function() return #s:seen("POST", "/interrupt") == 1 end)
    local queues = #s:seen("GET", "/queue")
    s:drop()
    K.till("it was looked for", function() return #s:seen("GET", "/queue") > queues end)
    K.till("it is told to stop again", function() return #s:seen("POST", "/interrupt") == 2 end)
    K.till("its slot is free", function() return c.queued == 0 and c.online end)
  end)
end)
