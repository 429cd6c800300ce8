-- tests/regress/001-oversized-frame.lua: closing a socket from its receive callback while a frame larger than the
-- receive buffer arrives overflows the WebSocket library's heap, with bytes of the remote side. We only set a flag
-- there and close when the socket is writable. Under ASan this spec dies if that ever changes.
local moonpool = require "moonpool"

describe("a frame above the limit", function()
  it("closes the socket with 1009, in the middle of the frame, and nothing else happens", function()
    local sim <close> = assert(moonpool.sim { speed = 100 })
    local big = {}
    for i = 1, 300 do big[tostring(i)] = { class_type = "EmptyImage", inputs = { width = 16, height = 16, batch_size = 1, color = i } } end
    for i = 301, 600 do big[tostring(i)] = { class_type = "PreviewImage", inputs = { images = { tostring(i - 300), 0 } } } end
    local ws = assert(moonpool.ws.connect { url = sim.url .. "/ws?clientId=big", max_message = 40000 })
    assert(moonpool.http.request { method = "POST", url = sim.url .. "/prompt", body = moonpool.json.encode { client_id = "big", prompt = big } })
    local err
    repeat
      local message
      message, err = ws:receive(10000)
    until not message
    assert.equal("closed", err.kind)
    assert.equal(1009, err.code)
    assert.matches("more than 40000 bytes", err.message)
    assert.equal(200, moonpool.http.request { url = sim.url .. "/queue" }.status)
  end)
end)
