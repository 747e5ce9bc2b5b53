# The bundle of the demo, as `tools/release` packs it.
SUMMARY = "The demo bundle of mien"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

MIEN_PACKAGES ?= "${TOPDIR}/../target/packages"
FILESEXTRAPATHS:prepend := "${MIEN_PACKAGES}:"
SRC_URI = "file://mien-demo-bundle_${PV}-1_all.deb;subdir=${BP}"

inherit allarch bin_package

python () {
    import os
    package = os.path.join(d.getVar("MIEN_PACKAGES"), "mien-demo-bundle_%s-1_all.deb" % d.getVar("PV"))
    # Read again when it comes.
    bb.parse.mark_dependency(d, package)
    if not os.path.exists(package):
        raise bb.parse.SkipRecipe("there is no %s: tools/release makes it, MIEN_PACKAGES names its folder" % package)
}
