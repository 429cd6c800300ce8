-- tests/regress/012-posted-twice.lua: a kept connection died after a prompt had gone out over it and before a byte came
-- back; libcurl sent the POST again by itself over a fresh connection, and the prompt ran twice.
local moonpool = require "moonpool"
local K = require "kit"
local scripted = K.scripted(it, pending)

describe("a kept connection that ends after the request and before the reply", function()
  after_each(K.clean)

  scripted("makes no prompt run twice", function()
    local s = K.server()
    local pool = K.pool_of({ s }, { settle_ms = 50, poll_ms = 50 })
    K.completed(pool:submit(K.picture(1)))                         -- leaves connections that are kept
    s:set { status = { ["/prompt"] = { -1 } } }
    local r = K.completed(pool:submit(K.picture(2)))
    assert.equal(1, r.attempts)
    assert.equal(2, #s:prompts())
  end)

  scripted("is an error of the connection for whoever asked, who decides", function()
    local s = K.server { status = { ["/interrupt"] = { 200, -1 } } }
    local function post() return moonpool.http.request { method = "POST", url = s.url .. "/interrupt", body = "{}" } end
    assert(post())
    local reply, err = post()
    assert.is_nil(reply)
    assert.equal("connection", err.kind)
    assert.matches("lost", err.message)
    assert.equal(2, #s:seen("POST", "/interrupt"))
    assert(post())
  end)

  scripted("is asked again over a fresh one, when nothing was sent but a GET", function()
    local s = K.server { status = { ["/queue"] = { 200, -1 } } }
    assert(moonpool.http.request { url = s.url .. "/queue" })
    assert(moonpool.http.request { url = s.url .. "/queue" })
    assert.equal(3, #s:seen("GET", "/queue"))
  end)
end)
