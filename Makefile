# Moonpool. `make demo` and `make test` set up what they need by themselves; see README.md.
#   make              build/moonpool, build/moonpool.so, build/libmoonpool.a, build/libmoonpool.so
#   make SAN=asan ... the same under build/asan with AddressSanitizer and UBSan
#   make CC=clang ...
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
endif
SAN    ?= rel
B      := build$(if $(filter-out rel,$(SAN)),/$(SAN))
CC     ?= cc
LUA    ?= lua5.4
PREFIX ?= /usr/local
CFLAGS ?= -O2 -g
PKGS   := libuv libwebsockets libcurl libcjson libcrypto zlib

SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -fno-builtin-memcmp
SAN_tsan := -fsanitize=thread
# Recipes that need no library may run before set-up; the flags are asked for when first used.
CPP_PKGS = $(eval CPP_PKGS := $(shell pkg-config --cflags $(PKGS) lua5.4))$(CPP_PKGS)
LIBS     = $(eval LIBS := $(shell pkg-config --libs $(PKGS)) -lm -lpthread)$(LIBS)
LUALIB   = $(eval LUALIB := $(shell pkg-config --variable=libdir lua5.4 2>/dev/null || echo /usr/lib)/liblua5.4.a)$(LUALIB)
ALL      = -std=c11 -D_GNU_SOURCE -Isrc -MMD -MP -fPIC -fvisibility=hidden -Wall -Wextra -Wshadow -Wstrict-prototypes \
           $(if $(WERROR),-Werror) $(SAN_$(SAN)) $(CPP_PKGS) $(CFLAGS) $(DEFS)

PURE := $(wildcard src/base/*.c src/graph/*.c src/comfy/*.c src/prof/*.c src/pool/*.c src/sim/*.c src/world/*.c)
CORE := $(PURE) $(wildcard src/net/*.c src/wire/*.c src/lua/*.c)
OBJ  := $(patsubst src/%.c,$B/obj/%.o,$(CORE)) $B/obj/embed.o
POBJ := $(patsubst src/%.c,$B/obj/%.o,$(PURE))
NETOBJ := $(POBJ) $(patsubst src/%.c,$B/obj/%.o,$(wildcard src/net/*.c src/wire/*.c))
LUAFILES := $(shell find lua -name '*.lua' 2>/dev/null | sort)

all: $B/moonpool $B/moonpool.so $B/libmoonpool.a $B/libmoonpool.so

$B/obj/%.o: src/%.c Makefile
	@mkdir -p $(@D)
	@echo "  CC $<"; $(CC) $(ALL) -c -o $@ $<

# The Lua half, as C arrays.
$B/gen/embed.c: scripts/setup.d/embed.lua $(LUAFILES)
	@mkdir -p $(@D)
	$(LUA) scripts/setup.d/embed.lua $@ $(LUAFILES)
$B/obj/embed.o: $B/gen/embed.c
	@mkdir -p $(@D)
	@echo "  CC $<"; $(CC) $(ALL) -c -o $@ $<

# The interpreter exports the whole of liblua, so that C modules load into it.
$B/moonpool: $(OBJ) $B/obj/main.o
	@echo "  LD $@"; $(CC) $(SAN_$(SAN)) $(LDFLAGS) -Wl,-E -o $@ $(filter %.o,$^) -Wl,--whole-archive $(LUALIB) -Wl,--no-whole-archive $(LIBS) -ldl
$B/moonpool.so: $(OBJ) src/moonpool.map
	$(CC) -shared $(SAN_$(SAN)) $(LDFLAGS) -Wl,-z,nodelete -Wl,--version-script=src/moonpool.map -o $@ $(OBJ) $(LIBS)
$B/libmoonpool.a: $(OBJ)
	rm -f $@ && ar rcs $@ $^
# Debian's liblua5.4.a is not position-independent, so this one names the shared liblua as a dependency.
$B/libmoonpool.so: $(OBJ) src/libmoonpool.map
	$(CC) -shared $(SAN_$(SAN)) $(LDFLAGS) -Wl,-z,nodelete -Wl,--version-script=src/libmoonpool.map -Wl,-soname,libmoonpool.so.0 -o $@ $(OBJ) -llua5.4 $(LIBS)
	ln -sf libmoonpool.so $@.0

# Test programs of the pure rooms: no sockets, no Lua.
$B/replay: tests/replay/replay.c $(POBJ)
	$(CC) $(ALL) -o $@ $(filter %.c %.o %.a,$^) $(LIBS)
$B/world: tests/world/campaign.c $(POBJ)
	$(CC) $(ALL) -o $@ $(filter %.c %.o %.a,$^) $(LIBS)
$B/truth: tests/world/truth.c $(POBJ)
	$(CC) $(ALL) -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc -o $@ $(filter %.c %.o %.a,$^) $(LIBS)

$B/left $B/rooms $B/bounds $B/cases: $B/%: tests/world/%.c $(POBJ)
	$(CC) $(ALL) -o $@ $(filter %.c %.o %.a,$^) $(LIBS)

# Planted faults: a pool built with -DMP_MUTANT=n breaks one rule; the campaign must notice each.
MUTANTS := 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
mutants:
	@mkdir -p build/mutants
	@for m in $(MUTANTS); do $(CC) $(ALL) -w -DMP_MUTANT=$$m -o build/mutants/world-$$m tests/world/campaign.c $(PURE) $(LIBS) || exit 1; \
	  if build/mutants/world-$$m --seeds 5000 --quick >build/mutants/$$m.log 2>&1; then echo "mutant $$m: NOT caught"; exit 1; else echo "mutant $$m: caught: $$(grep -m1 '^seed' build/mutants/$$m.log)"; fi; done

RECORDINGS ?= ../shared/recordings
replay: $B/replay
	@for d in $(RECORDINGS) $(RECORDINGS)/*/; do ls $$d/*.jsonl >/dev/null 2>&1 && $B/replay $$d/*.jsonl || true; done

# ---- the README's two commands, and what CI runs --------------------------------------------------------------
setup:
	@scripts/setup

demo: setup
	@$(MAKE) --no-print-directory -s $B/moonpool
	@$B/moonpool scripts/demo.lua

BUSTED  = $$(command -v busted)
SPEC    = MOONPOOL_BUILD=$B $B/moonpool $(BUSTED) -o tests/spec/output.lua --lpath='tests/spec/?.lua' -p _spec -p '^%d%d%d%-'
# They wait more than they work: parts of about the same length, side by side; the third is short, and for stock Lua.
PART1  := $(foreach s,bad_input observer sim sim_conformance guide,tests/spec/$s_spec.lua)
PART4  := $(foreach s,plan profiles profile_log policy cli scripts embed batch reference interpreter routing,tests/spec/$s_spec.lua)
PART2  := $(filter-out $(PART1) $(PART4),$(wildcard tests/spec/*_spec.lua)) tests/regress
# Specs that use nothing but the API run under stock Lua with the module too.
STOCK  := tests/spec/graph_spec.lua tests/spec/json_spec.lua tests/spec/pool_spec.lua tests/spec/task_spec.lua
WORLD_SEEDS ?= 500

part-1 part-2 part-4:
	@MOONPOOL_PART=$(@:part-%=%) $(SPEC) $(PART$(@:part-%=%))
part-3:
	@MOONPOOL_PART=3 LUA_CPATH='$B/?.so;;' MOONPOOL_BUILD=$B $(LUA) $(BUSTED) -o tests/spec/output.lua --lpath='tests/spec/?.lua' $(STOCK)

test: setup
	@$(MAKE) --no-print-directory -s specs

specs: all $B/replay $B/world $B/truth $B/left $B/rooms $B/bounds $B/cases $B/host $B/states $B/game $B/poll $B/threads $B/contract
	@mkdir -p $B/tmp
	@MAKEFLAGS= $(MAKE) --no-print-directory -s SAN=$(SAN) B=$B LUA=$(LUA) -j4 -k -Otarget part-1 part-2 part-4 $(if $(filter rel,$(SAN)),part-3)
	@$B/world --seeds $(WORLD_SEEDS)
	@$B/truth
	@$B/left
	@$B/rooms
	@$B/bounds
	@$B/cases

# Layers, linters, the specs under the sanitizers and once more with an eager collector, planted faults, replays.
check: setup
	@$(LUA) scripts/layers.lua
	@luacheck -q --std lua54+busted --max-line-length 225 lua scripts tests/spec tests/regress tests/bench
	@cppcheck -q --std=c11 --error-exitcode=1 --enable=warning,portability --inline-suppr --suppress=missingIncludeSystem --suppress=unknownMacro --suppress=invalidPointerCast -j2 -Isrc src
	@$(MAKE) --no-print-directory -s WERROR=1 B=build/werror build/werror/moonpool
	@if command -v clang >/dev/null 2>&1; then $(MAKE) --no-print-directory -s CC=clang WERROR=1 B=build/clang build/clang/moonpool; else echo "clang is not installed: not tried"; fi
	@$(MAKE) --no-print-directory -s SAN=asan WORLD_SEEDS=200 specs
	@$(MAKE) --no-print-directory -s $B/world && $B/world --seeds 5000
	@$(MAKE) --no-print-directory -s SAN=tsan build/tsan/threads && build/tsan/threads
	@MAKEFLAGS= MOONPOOL_GC=1 $(MAKE) --no-print-directory -s SAN=asan LUA=$(LUA) -j3 -k -Otarget part-1 part-2 part-4
	@$(MAKE) --no-print-directory -s replay

# Processes killed, stopped and restarted behind a proxy that cuts, delays and half-closes: tests/chaos. Under ASan: three runs.
CHAOS_RUNS ?= $(if $(filter asan,$(SAN)),1 2 3,1)
$B/chaosproxy: tests/chaos/proxy.c
	$(CC) $(ALL) -o $@ $< $(LIBS)
chaos: all $B/chaosproxy
	@mkdir -p $B/tmp
	@for seed in $(CHAOS_RUNS); do ASAN_OPTIONS=quarantine_size_mb=1 LSAN_OPTIONS=suppressions=tests/chaos/lsan.txt MOONPOOL_BUILD=$B $B/moonpool tests/chaos/chaos.lua --seed $$seed || exit 1; done

# The campaign, as long as you like, on all cores: make soak SEEDS=100000 FIRST=1
SEEDS ?= 20000
FIRST ?= 1
soak: setup
	@$(MAKE) --no-print-directory -s $B/world
	@$B/world --seeds $(SEEDS) --first $(FIRST)

bench: setup
	@$(MAKE) --no-print-directory -s all $B/game $B/player $B/floor $B/profcost $B/scale
	@$B/moonpool tests/bench/bench.lua

$B/host $B/states $B/game $B/poll $B/threads: $B/%: scripts/embed/%.c $B/libmoonpool.a
	$(CC) $(ALL) -o $@ $< $B/libmoonpool.a -Wl,-E $(LUALIB) $(LIBS) -ldl
$B/contract: tests/embed/contract.c $B/libmoonpool.a
	$(CC) $(ALL) -o $@ $< $B/libmoonpool.a -Wl,-E $(LUALIB) $(LIBS) -ldl
$B/floor: tests/bench/floor.c $(NETOBJ)
	$(CC) $(ALL) -o $@ $(filter %.c %.o %.a,$^) $(LIBS)
$B/player: tests/bench/player.c $(NETOBJ)
	$(CC) $(ALL) -o $@ $(filter %.c %.o %.a,$^) $(LIBS)

$B/scale: tests/bench/scale_main.c tests/bench/scale.c $B/libmoonpool.a
	$(CC) $(ALL) -Itests -o $@ tests/bench/scale_main.c tests/bench/scale.c $B/libmoonpool.a -Wl,-E $(LUALIB) $(LIBS) -ldl
$B/profcost: tests/bench/profcost.c $(POBJ)
	$(CC) $(ALL) -o $@ $(filter %.c %.o %.a,$^) $(LIBS)

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/lua/5.4 $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include
	install -m755 $B/moonpool $(DESTDIR)$(PREFIX)/bin/
	install -m755 $B/moonpool.so $(DESTDIR)$(PREFIX)/lib/lua/5.4/
	install -m755 $B/libmoonpool.so $(DESTDIR)$(PREFIX)/lib/libmoonpool.so.0
	ln -sf libmoonpool.so.0 $(DESTDIR)$(PREFIX)/lib/libmoonpool.so
	install -m644 $B/libmoonpool.a $(DESTDIR)$(PREFIX)/lib/
	install -m644 src/moonpool.h $(DESTDIR)$(PREFIX)/include/
	printf 'prefix=%s\nName: moonpool\nDescription: a pool for ComfyUI servers, scripted in Lua\nVersion: 0.1\nCflags: -I$${prefix}/include\nLibs: -L$${prefix}/lib -lmoonpool\nLibs.private: %s\n' \
	  '$(PREFIX)' "$$(pkg-config --libs lua5.4 $(PKGS)) -lm -lpthread" > $(DESTDIR)$(PREFIX)/lib/pkgconfig/moonpool.pc

clean:
	rm -rf build

.PHONY: all part-1 part-2 part-3 part-4 replay mutants setup demo test specs check chaos soak bench install clean
-include $(shell find $B -name '*.d' 2>/dev/null)
