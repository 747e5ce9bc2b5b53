# U-Boot: starts one of two systems and counts its tries. BOOT_ORDER names them, best first; BOOT_A_LEFT and BOOT_B_LEFT are what RAUC sets to
# 3 for a system that it has installed or that was found good. They stand in the partition mien-env, twice, as U-Boot's redundant environment
# (CRC-32, a counter, the variables), which fw_setenv reads and writes: the older copy is written, so a power cut leaves the newer.
setenv disk "${devtype} ${devnum}"
${devtype} dev ${devnum}
part start ${disk} mien-env at_1
setexpr at_2 ${at_1} + 0x400
setenv copy_1 ${kernel_addr_r}
setexpr flag_1 ${copy_1} + 4
setexpr text_1 ${copy_1} + 5
setexpr copy_2 ${copy_1} + 0x10000
setexpr flag_2 ${copy_2} + 4
setexpr text_2 ${copy_2} + 5
setexpr sum ${copy_1} + 0x20000
setexpr sum_1 ${sum} + 1
setexpr sum_2 ${sum} + 2
setexpr sum_3 ${sum} + 3
setexpr turn ${copy_1} + 0x20010
setexpr turn_1 ${turn} + 1
setexpr turn_2 ${turn} + 2
setexpr turn_3 ${turn} + 3

# U-Boots differ in the order in which they store a sum; an environment has the lowest byte first. The sum of "a" is 0xe8b7be43.
setenv highest_first 0
mw.b ${copy_1} 0x61 1
crc32 ${copy_1} 1 ${sum}
if itest.b *${sum} == 0xe8; then setenv highest_first 1; fi
setenv sum_up 'crc32 ${text} 0x3ffb ${turn}; cp.b ${turn} ${sum} 4; if test "${highest_first}" = "1"; then cp.b ${turn_3} ${sum} 1; cp.b ${turn_2} ${sum_1} 1; cp.b ${turn_1} ${sum_2} 1; cp.b ${turn} ${sum_3} 1; fi'

setenv good_1 0
setenv good_2 0
${devtype} read ${copy_1} ${at_1} 0x20
${devtype} read ${copy_2} ${at_2} 0x20
setenv text ${text_1}
run sum_up
if itest.l *${sum} == *${copy_1}; then setenv good_1 1; fi
setenv text ${text_2}
run sum_up
if itest.l *${sum} == *${copy_2}; then setenv good_2 1; fi

# Which one is newer; the other is written. Counters go round at 255.
setenv newer 0
if test "${good_1}" = "1"; then setenv newer 1; fi
if test "${good_2}" = "1"; then
  if test "${good_1}" = "1"; then
    setexpr.b count_1 *${flag_1}
    setexpr.b count_2 *${flag_2}
    setexpr ahead ${count_2} + 0x100
    setexpr ahead ${ahead} - ${count_1}
    setexpr ahead ${ahead} % 0x100
    if itest 0x${ahead} -gt 0; then if itest 0x${ahead} -lt 0x80; then setenv newer 2; fi; fi
  else
    setenv newer 2
  fi
fi
setenv count 0
if test "${newer}" = "1"; then setexpr.b count *${flag_1}; env import -b ${text_1} 0x3ffb BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT; fi
if test "${newer}" = "2"; then setexpr.b count *${flag_2}; env import -b ${text_2} 0x3ffb BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT; fi
if test -z "${BOOT_ORDER}"; then setenv BOOT_ORDER "A B"; fi
if test -z "${BOOT_A_LEFT}"; then setenv BOOT_A_LEFT 3; fi
if test -z "${BOOT_B_LEFT}"; then setenv BOOT_B_LEFT 3; fi

setenv slot
for one in "${BOOT_ORDER}"; do
  if test "x${slot}" = "x"; then
    if test "${one}" = "A"; then if itest 0x${BOOT_A_LEFT} -gt 0; then setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1; setenv slot A; setenv label system-a; fi; fi
    if test "${one}" = "B"; then if itest 0x${BOOT_B_LEFT} -gt 0; then setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1; setenv slot B; setenv label system-b; fi; fi
  fi
done
if test "x${slot}" = "x"; then echo "BOOT neither system has a try left: both get three again"; setenv BOOT_A_LEFT 3; setenv BOOT_B_LEFT 3; fi

if test "${newer}" = "1"; then
  setenv copy ${copy_2}; setenv flag ${flag_2}; setenv text ${text_2}; setenv at ${at_2}
else
  setenv copy ${copy_1}; setenv flag ${flag_1}; setenv text ${text_1}; setenv at ${at_1}
fi
setexpr count ${count} + 1
mw.b ${copy} 0 0x4000
env export -b ${text} BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT
run sum_up
cp.b ${sum} ${copy} 4
mw.b ${flag} ${count} 1
${devtype} write ${copy} ${at} 0x20
echo "BOOT slot=${slot} order=${BOOT_ORDER} A=${BOOT_A_LEFT} B=${BOOT_B_LEFT} copies=${good_1}${good_2} newer=${newer}"
if test "x${slot}" = "x"; then reset; fi

part number ${disk} ${label} number
if test -z "${fdt_addr}"; then setenv fdt_addr ${fdtcontroladdr}; fi
setenv bootargs "root=PARTLABEL=${label} rauc.slot=${slot} rw rootwait panic=10 @BOOTARGS@"
load ${devtype} ${devnum}:${number} ${kernel_addr_r} /boot/vmlinuz && load ${devtype} ${devnum}:${number} ${ramdisk_addr_r} /boot/initrd.img && booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${fdt_addr}
echo "BOOT system ${slot} does not load"
reset
