# The rules that build the module into nginx's objs directory and install it, in nginx's Makefile.
#
# cargo links the module by itself, so nginx's own rules for dynamic modules, which compile C, have no part in it.

ngx_http_wasm_dir=`cd $ngx_addon_dir && pwd`
ngx_http_wasm_so=$NGX_OBJS/ngx_http_wasm_handler_module$ngx_modext
case $NGX_OBJS in
    /*) ngx_http_wasm_objs=$NGX_OBJS ;;
    *)  ngx_http_wasm_objs=`pwd`/$NGX_OBJS ;;
esac
ngx_http_wasm_profile=${NGX_HTTP_WASM_PROFILE:-release}

# cargo's own names: the profile "dev" is kept in "debug".
ngx_http_wasm_kept=$ngx_http_wasm_profile
test $ngx_http_wasm_profile != dev || ngx_http_wasm_kept=debug

# As a list, so that `make install` has nothing to build: whoever runs it may have no cargo.
ngx_http_wasm_deps=`find $ngx_http_wasm_dir/src $ngx_http_wasm_dir/build.rs \
        $ngx_http_wasm_dir/Cargo.toml $ngx_http_wasm_dir/Cargo.lock -type f | sort`
ngx_http_wasm_deps=`echo " "$ngx_http_wasm_deps | sed -e "s/  *\([^ ][^ ]*\)/$ngx_regex_cont\1/g"`

# auto/install makes the path absolute in this way, later.
case ".$NGX_MODULES_PATH" in
    ./*) ngx_http_wasm_to=$NGX_MODULES_PATH ;;
    *)   ngx_http_wasm_to=$NGX_PREFIX/$NGX_MODULES_PATH ;;
esac

cat << END                                                    >> $NGX_MAKEFILE

modules:	$ngx_http_wasm_so

$ngx_http_wasm_so:	$NGX_MAKEFILE $NGX_AUTO_CONFIG_H$ngx_http_wasm_deps
	target=\$\${CARGO_TARGET_DIR:-$ngx_http_wasm_objs/ngx_http_wasm_handler} && cd '$ngx_http_wasm_dir' \\
		&& NGINX_SOURCE_DIR='`pwd`' NGINX_BUILD_DIR='$ngx_http_wasm_objs' CARGO_TARGET_DIR="\$\$target" \\
			$ngx_http_wasm_cargo rustc --profile $ngx_http_wasm_profile --locked --lib --crate-type cdylib \\
		&& cp "\$\$target/$ngx_http_wasm_kept/libngx_http_wasm_handler_module.so" \\
			'$ngx_http_wasm_objs/ngx_http_wasm_handler_module.so.new'
	mv -f $ngx_http_wasm_so.new $ngx_http_wasm_so

install:	install_ngx_http_wasm_handler

install_ngx_http_wasm_handler:	$ngx_http_wasm_so
	mkdir -p '\$(DESTDIR)$ngx_http_wasm_to'
	cp $ngx_http_wasm_so '\$(DESTDIR)$ngx_http_wasm_to/ngx_http_wasm_handler_module.so.new'
	mv -f '\$(DESTDIR)$ngx_http_wasm_to/ngx_http_wasm_handler_module.so.new' \\
		'\$(DESTDIR)$ngx_http_wasm_to/ngx_http_wasm_handler_module.so'

END
