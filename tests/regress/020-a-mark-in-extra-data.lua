-- tests/regress/020-a-mark-in-extra-data.lua: extra_data copied from a history entry brought the mark of another prompt along, which
-- stood behind ours and won: a prompt whose reply was lost was not found again and ran twice.
local K = require "kit"
local scripted = K.scripted(it, pending)

describe("extra_data in which our mark stands", function()
  after_each(K.clean)

  scripted("is sent with the mark of this prompt, once", function()
    local s = K.server { own_ids = false, status = { ["/prompt"] = { -1 } }, hold = "pending" }
    local extra = { moonpool = "another's", mine = { 1, 2 } }
    local job = K.pool_of({ s }, { settle_ms = 60, poll_ms = 30 }):submit(K.picture(), { extra_data = extra })
    K.till("it is found in the queue", function() return #s:seen("GET", "/queue") > 0 end)
    s:set { hold = "" }
    K.completed(job)
    assert.equal(1, #s:prompts())
    local sent = s:prompts()[1]
    assert.equal(sent.prompt_id, sent.extra_data.moonpool)
    assert.same({ 1, 2 }, sent.extra_data.mine)
    assert.equal("another's", extra.moonpool)                       -- the caller's table is as it was
    local _, n = s:seen("POST", "/prompt")[1].body:gsub('"moonpool"', "")
    assert.equal(1, n)
  end)
end)
