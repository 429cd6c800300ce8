-- From a checkout: luarocks make scripts/moonpool-0.1-1.rockspec
-- The libraries' headers must be there (scripts/setup installs them on Debian).
rockspec_format = "3.0"
package = "moonpool"
version = "0.1-1"
source = { url = "git+file://.", tag = "v0.1" }
description = {
  summary = "A pool for ComfyUI servers, scripted in Lua",
  detailed = "Keeps several ComfyUI servers busy and tells where the time went: routing policies, mutation and reports in Lua.",
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = { "lua >= 5.4, < 5.5" }
build = {
  type = "make",
  build_target = "all",
  build_variables = { LUA = "$(LUA)", CFLAGS = "$(CFLAGS)" },
  install_pass = false,
  install = {
    lib = { moonpool = "build/moonpool.so" },
    bin = { moonpool = "build/moonpool" },
  },
}
