# The program as `tools/release` packs it. In local.conf:
#
#   MIEN_PACKAGES = "/path/to/target/packages"
#   MIEN_BOARD = "orin-nano"
#   MIEN_CONFIG = "/path/to/site.toml"
#   IMAGE_INSTALL:append = " mien mien-demo-bundle"
SUMMARY = "Emotion events from camera and microphone, on the device"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

MIEN_PACKAGES ?= "${TOPDIR}/../target/packages"
MIEN_BOARD ?= "generic-arm64"
MIEN_CONFIG ?= ""
MIEN_ARCH:aarch64 = "arm64"
MIEN_ARCH:x86-64 = "amd64"

FILESEXTRAPATHS:prepend := "${MIEN_PACKAGES}:"
SRC_URI = "file://mien_${PV}-1_${MIEN_ARCH}.deb;subdir=${BP}"
COMPATIBLE_HOST = "(aarch64|x86_64).*-linux"

inherit bin_package systemd useradd

SYSTEMD_SERVICE:${PN} = "mien.service"
USERADD_PACKAGES = "${PN}"
USERADD_PARAM:${PN} = "--system --no-create-home --home-dir /var/lib/mien --shell /sbin/nologin --user-group --groups video,audio,dialout mien"
CONFFILES:${PN} = "${sysconfdir}/mien/mien.toml"
# The package's program is stripped already.
INSANE_SKIP:${PN} = "already-stripped"

do_install:append() {
    for folder in systemd/system udev/rules.d; do
        for place in ${D}/lib ${D}/usr/lib; do
            [ "$place/$folder" != "${D}${nonarch_base_libdir}/$folder" ] && [ -d "$place/$folder" ] || continue
            install -d "${D}${nonarch_base_libdir}/$folder"
            mv "$place/$folder"/* "${D}${nonarch_base_libdir}/$folder/"
            rmdir -p "$place/$folder" 2>/dev/null || true
        done
    done
    install -d ${D}${sysconfdir}/systemd/system/mien.service.d
    ln -sfn /usr/share/mien/board/${MIEN_BOARD} ${D}${sysconfdir}/mien/board
    ln -sfn ${sysconfdir}/mien/board/mien.service.d/board.conf ${D}${sysconfdir}/systemd/system/mien.service.d/board.conf
    [ -z "${MIEN_CONFIG}" ] || install -m 644 "${MIEN_CONFIG}" ${D}${sysconfdir}/mien/mien.toml
}

python () {
    import os
    board = d.getVar("MIEN_BOARD")
    here = os.path.join(d.getVar("THISDIR"), "../../../", board, "profile.toml")
    if not os.path.exists(here):
        raise bb.parse.SkipRecipe("MIEN_BOARD is '%s', and board/%s has no profile.toml" % (board, board))
    package = os.path.join(d.getVar("MIEN_PACKAGES"), "mien_%s-1_%s.deb" % (d.getVar("PV"), d.getVar("MIEN_ARCH")))
    # Read again when it comes.
    bb.parse.mark_dependency(d, package)
    if not os.path.exists(package):
        raise bb.parse.SkipRecipe("there is no %s: tools/release makes it, MIEN_PACKAGES names its folder" % package)
    config = d.getVar("MIEN_CONFIG")
    if config and not os.path.exists(config):
        raise bb.parse.SkipRecipe("MIEN_CONFIG names '%s', which is not there" % config)
}
