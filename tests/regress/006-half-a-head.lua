-- tests/regress/006-half-a-head.lua: a connection that was cut in the middle of a reply's head counted as a whole, empty
-- reply with its status, and result:save left a file of no bytes.
local moonpool = require "moonpool"
local H = require "helper"

local python = os.execute "python3 -c '' >/dev/null 2>&1"

describe("a connection that ends in the middle of the reply's head", function()
  it("is no reply", function()
    if not python then return pending "python3 is missing" end
    local said = H.folder "half-a-head" .. "/port"
    local pipe = assert(io.popen(([[exec python3 -c '
import socket, sys, threading
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(8); print(s.getsockname()[1], flush=True)
def serve():
    while True:
        c, _ = s.accept(); c.recv(4096); c.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"); c.close()
threading.Thread(target=serve, daemon=True).start()
sys.stdin.read()' >%s]]):format(said), "w"))
    local port
    for _ = 1, 400 do
      local f = io.open(said)
      port = f and f:read "n"
      if f then f:close() end
      if port then break end
      moonpool.sleep(10)
    end
    local reply, err = moonpool.http.request { url = ("http://127.0.0.1:%d/view"):format(port) }
    pipe:close()
    assert.is_nil(reply)
    assert.equal("connection", err.kind)
    assert.matches("head", err.message)
  end)
end)
