# The two nginx that the module is built for and tested on: Debian's with its headers, and 1.28 from source.

DEBIAN_NGINX := /usr/sbin/nginx
DEBIAN_TREE  := $(CURDIR)/target/nginx-debian

SRC_TREE     := $(CURDIR)/target/nginx-1.28
SRC_NGINX    := $(SRC_TREE)/objs/nginx
SRC_ARCHIVE  := $(SRC_TREE)/objs/libnginx.a
SRC_CRATE    := t/nginx-src/Cargo.toml t/nginx-src/Cargo.lock
SRC_FLAGS    := --with-compat --with-debug --with-threads --with-file-aio --with-pcre-jit \
	--with-http_ssl_module --with-http_v2_module --with-http_v3_module --with-http_realip_module \
	--with-http_addition_module --with-http_sub_module --with-http_gunzip_module --with-http_gzip_static_module \
	--with-http_auth_request_module --with-http_slice_module --with-http_secure_link_module \
	--with-http_random_index_module --with-http_dav_module --with-http_stub_status_module

# The headers of the installed nginx, configured as Debian does. Made again only for another nginx-dev.
.PHONY: nginx-debian
nginx-debian:
	@have=$$(dpkg-query -W -f '$${Version}' nginx-dev 2>/dev/null); \
	 test -n "$$have" || { echo 'nginx-dev is not installed: make deps' >&2; exit 1; }; \
	 test "$$have" = "$$(cat $(DEBIAN_TREE)/version 2>/dev/null)" || { \
	   echo "configuring the headers of nginx-dev $$have"; \
	   rm -rf $(DEBIAN_TREE) && mkdir -p target && cp -r /usr/share/nginx/src $(DEBIAN_TREE) && cd $(DEBIAN_TREE) && \
	   bash -c '. ./conf_flags && ./configure "$${NGX_CONF_FLAGS[@]}" --with-cc-opt="-g -O2 -fPIC"' > configure.log && \
	   echo "$$have" > version; }

.PHONY: nginx-1.28
nginx-1.28: $(SRC_NGINX)

$(SRC_NGINX): $(SRC_CRATE)
	@$(call source,$(SRC_TREE)) && cd $(SRC_TREE) && \
	 auto/configure --prefix=$(SRC_TREE)/prefix $(SRC_FLAGS) --with-cc-opt='-g -O2 -fPIC' > configure.log && \
	 $(MAKE) -j$(JOBS) > build.log

# Its objects as a library; the test binary brings a main() of its own.
$(SRC_ARCHIVE): $(SRC_NGINX)
	@cd $(SRC_TREE)/objs && objcopy --redefine-sym main=ngx_main src/core/nginx.o ngx_main.o && \
	 find src -name '*.o' ! -path src/core/nginx.o | xargs ar rcs libnginx.a ngx_modules.o ngx_main.o

# $(call source,TREE): a tree of nginx 1.28's sources, from the crate nginx-src
define source
	src=$$($(CARGO) metadata --locked --format-version 1 --manifest-path t/nginx-src/Cargo.toml \
	        --filter-platform "$$(rustc -vV | sed -n 's/^host: //p')" | \
	      grep -o '"manifest_path":"[^"]*/nginx-src-[^"]*/Cargo.toml"' | cut -d '"' -f 4); \
	 test -n "$$src" || { echo 'the crate nginx-src was not found' >&2; exit 1; }; \
	 echo "building $$(basename "$${src%/Cargo.toml}") in $(1)"; \
	 rm -rf $(1) && mkdir -p target && cp -r "$${src%/Cargo.toml}/nginx" $(1)
endef
