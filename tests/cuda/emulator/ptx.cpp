#include "ptx_instructions.h"
#include <mutex>
#include <sstream>

namespace emulated {
namespace {

struct Reader {
    Program p;
    std::map<std::string, int> names;
    std::map<uint64_t, int> numbers;
    std::map<std::string, uint64_t> places; // of parameters, shared and local arrays
    std::map<std::string, unsigned> labels;
    std::vector<std::pair<size_t, std::string>> jumps;

    int fresh() { return p.registers++; }
    int constant(uint64_t bits) {
        auto found = numbers.find(bits);
        if (found != numbers.end()) return found->second;
        const int r = numbers[bits] = fresh();
        p.constants[r] = bits;
        return r;
    }
    int operand(const std::string &text) {
        if (text.empty()) refuse("an operand is missing");
        if (text[0] == '%') {
            auto found = names.find(text);
            return found != names.end() ? found->second : names[text] = fresh();
        }
        if (!text.compare(0, 2, "0f")) return constant(strtoull(text.c_str() + 2, nullptr, 16));
        if (isdigit(text[0]) || text[0] == '-') return constant(static_cast<uint64_t>(strtoll(text.c_str(), nullptr, 0)));
        auto place = places.find(text);
        if (place == places.end()) refuse("nothing is called %s", text.c_str());
        return constant(place->second);
    }
    // "[%rd1+16]" and "[name+4]"
    int address(const std::string &text, int64_t &offset) {
        const size_t end = text.find(']'), plus = text.find('+');
        offset = plus == std::string::npos ? 0 : strtoll(text.c_str() + plus + 1, nullptr, 0);
        return operand(text.substr(1, std::min(plus, end) - 1));
    }
    static std::vector<std::string> list(const std::string &text) {
        std::vector<std::string> out;
        std::string word;
        int deep = 0;
        for (char c : text + ",") {
            if (c == ' ' || c == '\t') continue;
            if (c == '{') ++deep;
            if (c == '}') --deep;
            if (c != ',' || deep) word += c;
            else out.push_back(word), word.clear();
        }
        return out;
    }
    static std::vector<std::string> inside(const std::string &word) {
        return word[0] == '{' ? list(word.substr(1, word.size() - 2)) : std::vector<std::string>{word};
    }

    void arguments(Instruction &i, const std::vector<std::string> &words, size_t results) {
        int addresses = 0;
        for (size_t n = 0; n < words.size(); ++n) {
            std::vector<std::string> parts = inside(words[n]);
            const size_t pair = words[n].find('|');
            if (pair != std::string::npos) parts = {words[n].substr(0, pair), words[n].substr(pair + 1)};
            for (const std::string &part : parts) {
                const int r = part[0] == '[' ? address(part, i.offset[addresses++]) : operand(part);
                if (n < results) i.to[i.to_count++] = r;
                else i.from[i.from_count++] = r;
            }
        }
    }

    void instruction(std::string line) {
        Instruction i;
        i.text = line;
        if (line[0] == '@') {
            i.unless = line[1] == '!';
            const size_t space = line.find_first_of(" \t");
            i.guard = operand(line.substr(1 + i.unless, space - 1 - i.unless));
            line = line.substr(line.find_first_not_of(" \t", space));
        }
        const size_t space = line.find_first_of(" \t");
        const std::string op = line.substr(0, space);
        const std::string rest = space == std::string::npos ? "" : line.substr(space);
        const std::vector<std::string> words = rest.empty() ? std::vector<std::string>() : list(rest);
        const size_t dot = op.find('.'), last = op.rfind('.');
        const std::string base = op.substr(0, dot), type = last == std::string::npos ? "" : op.substr(last + 1);
        const std::string how = last > dot && last != std::string::npos ? op.substr(dot + 1, last - dot - 1) : "";
        if (base == "bra") {
            i.flow = Flow::Branch;
            jumps.emplace_back(p.code.size(), words[0]);
        } else if (base == "ret") {
            i.flow = Flow::Return;
        } else if (op == "bar.sync") {
            if (words.size() != 1 || words[0] != "0") refuse("%s", line.c_str());
            i.flow = Flow::Barrier;
        } else if (op == "bar.warp.sync") {
            if (words.at(0) != "-1") refuse("%s", line.c_str());
            i.flow = Flow::Together, i.act = warp_barrier;
        } else if (op == "prefetch.global.L2") {
            i.space = Space::Global, i.act = prefetched;
            arguments(i, words, 0);
        } else if (op == "membar.gl") {
            i.act = fence;
        } else if (op == "atom.global.inc.u32") {
            i.space = Space::Global, i.act = atomic_inc;
            arguments(i, words, 1);
        } else if (op == "cp.async.cg.shared.global") {
            i.act = copy_begin;
            arguments(i, words, 0);
        } else if (op == "cp.async.commit_group") {
            i.act = copy_group;
        } else if (op == "cp.async.wait_group") {
            i.act = copy_arrive, i.number = atoi(words[0].c_str());
        } else if (op == "ldmatrix.sync.aligned.m8n8.x4.shared.b16" || op == "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16") {
            i.act = op.find(".trans.") == std::string::npos ? matrices<false> : matrices<true>, i.flow = Flow::Together;
            arguments(i, words, 1);
        } else if (op == "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32") {
            i.act = matrix_product, i.flow = Flow::Together;
            arguments(i, words, 1);
        } else if (base == "ld" || base == "st") {
            static const std::map<std::string, Space> spaces = {{"param", Space::Param}, {"global", Space::Global}, {"shared", Space::Shared}, {"local", Space::Local}};
            auto space = spaces.find(how.substr(0, how.find('.')));
            i.space = space == spaces.end() ? Space::Generic : space->second;
            i.act = of_memory(base == "ld", type);
            arguments(i, words, base == "ld" ? 1 : 0);
        } else if (base == "mov" && words[0][0] == '{') {
            i.act = split_wide;
            arguments(i, words, 1);
        } else if (base == "mov" && words[1][0] == '{') {
            i.act = join_wide;
            arguments(i, words, 1);
        } else {
            // The type that is converted from stands last.
            std::string kind = type, way = how;
            if (base == "cvt") {
                const size_t cut = how.rfind('.');
                kind = (cut == std::string::npos ? how : how.substr(cut + 1)) + "." + type;
                way = cut == std::string::npos ? "" : how.substr(0, cut);
            }
            i.act = of_type(base, way, kind);
            if (base == "shfl" || base == "redux") i.flow = Flow::Together;
            arguments(i, words, 1);
        }
        if (i.flow == Flow::Next && !i.act) refuse("the instruction `%s` is not known", line.c_str());
        p.code.push_back(i);
    }

    static size_t bytes_of(const std::string &type) { return type == "b8" || type == "u8" ? 1 : type[1] == '6' ? 8 : type[1] == '1' ? 2 : 4; }
    // ".param .align 8 .b8 name[32]", ".shared .align 16 .b8 name[512]": its name, bytes and alignment
    static std::tuple<std::string, size_t, size_t> array(const std::string &line) {
        std::istringstream words(line);
        std::string word, name;
        size_t align = 0, unit = 0;
        while (words >> word) {
            if (word == ".align") words >> align;
            else if (word[0] == '.') unit = word == ".param" || word == ".shared" || word == ".local" ? unit : bytes_of(word.substr(1));
            else name = word;
        }
        const size_t open = name.find('[');
        const size_t count = open == std::string::npos ? 1 : atoll(name.c_str() + open + 1);
        return {name.substr(0, open), unit * count, align ? align : unit};
    }
    void declared(const std::string &line, size_t &used) {
        const auto [name, bytes, align] = array(line);
        used = (used + align - 1) / align * align;
        places[name] = used;
        if (!line.compare(0, 6, ".param")) p.params.emplace_back(used, bytes);
        used += bytes;
    }

    void kernel(const std::string &image, const char *name) {
        p.name = name;
        const size_t entry = image.find(std::string(".entry ") + name + "(");
        if (entry == std::string::npos) refuse("the image has no kernel %s", name);
        std::istringstream lines(image.substr(entry, image.find("\n}", entry) - entry));
        std::string line;
        std::getline(lines, line);
        while (std::getline(lines, line)) {
            const size_t comment = line.find("//");
            if (comment != std::string::npos) line.resize(comment);
            while (!line.empty() && strchr(" \t\r;,", line.back())) line.pop_back();
            const size_t first = line.find_first_not_of(" \t");
            if (first == std::string::npos) continue;
            line = line.substr(first);
            if (!line.compare(0, 6, ".param")) declared(line, p.param_bytes);
            else if (!line.compare(0, 7, ".shared")) declared(line, p.shared_bytes);
            else if (!line.compare(0, 6, ".local")) declared(line, p.local_bytes);
            else if (line[0] == '.' || strchr("(){}", line[0])) continue; // registers, directives
            else if (line.back() == ':') labels[line.substr(0, line.size() - 1)] = p.code.size();
            else instruction(line);
        }
        for (const auto &[at, label] : jumps) {
            if (!labels.count(label)) refuse("no label %s", label.c_str());
            p.code[at].target = labels[label];
        }
        static const char *const special[] = {"%tid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%ntid.x", "%nctaid.x", "%nctaid.y", "%nctaid.z"};
        for (int n = 0; n < 8; ++n) p.special[n] = operand(special[n]);
    }
};

// ---- running

// Goes on until every lane has left or waits at the block's barrier.
void run(PtxWarp &w) {
    const Program &p = w.room->program;
    const unsigned all = ~0u;
    for (;;) {
        const unsigned free = all & ~(w.left | w.at_barrier | w.held);
        if (!free) {
            if (w.held) refuse("lanes %08x of a warp wait for the others, which have left or wait at a barrier", w.held);
            return;
        }
        unsigned at = ~0u, lanes = 0;
        for (int l = 0; l < WARP; ++l)
            if (free >> l & 1) at = std::min(at, w.at[l]);
        for (int l = 0; l < WARP; ++l)
            if ((free >> l & 1) && w.at[l] == at) lanes |= 1u << l;
        // Together as long as nobody parts.
        for (bool same = true; same;) {
            if (at >= p.code.size()) refuse("the code has ended");
            const Instruction &i = p.code[at];
            ++w.issued;
            unsigned on = lanes;
            if (i.guard >= 0) {
                const uint64_t *guard = row(w, i.guard);
                for (int l = 0; l < WARP; ++l)
                    if ((guard[l] & 1) == i.unless) on &= ~(1u << l);
            }
            same = lanes == free;
            unsigned next = at + 1;
            try {
                switch (i.flow) {
                case Flow::Next: i.act(w, i, on); break;
                case Flow::Together:
                    if (i.guard >= 0) refuse("a warp's common instruction under a condition");
                    for (int l = 0; l < WARP; ++l)
                        if ((w.held >> l & 1) && w.at[l] == at) lanes |= 1u << l;
                    if (lanes != all) {
                        w.held |= lanes;
                        for (int l = 0; l < WARP; ++l)
                            if (lanes >> l & 1) w.at[l] = at;
                        same = false, --w.issued;
                        continue;
                    }
                    w.held = 0;
                    i.act(w, i, on);
                    break;
                case Flow::Branch:
                    if (on == lanes) next = i.target;
                    else if (on) same = false;
                    break;
                case Flow::Barrier: w.at_barrier |= on; break;
                case Flow::Return: w.left |= on; break;
                }
            } catch (const std::string &why) {
                refuse("`%s`: %s", i.text.c_str(), why.c_str());
            }
            for (int l = 0; l < WARP; ++l)
                if (lanes >> l & 1) w.at[l] = i.flow == Flow::Branch && (on >> l & 1) ? i.target : next;
            if (i.flow == Flow::Barrier || i.flow == Flow::Return) same = false;
            at = next;
        }
    }
}

// Runs a block; how many instructions its warps were given.
uint64_t run_block(const Program &p, const uint3 &block, const Shape &shape, const std::vector<std::string> &arguments) {
    Room room(p);
    for (size_t n = 0; n < p.params.size(); ++n) {
        if (arguments[n].size() != p.params[n].second) refuse("parameter %zu has %zu bytes, %zu were given", n, p.params[n].second, arguments[n].size());
        memcpy(room.param.data() + p.params[n].first, arguments[n].data(), arguments[n].size());
    }
    memset(room.shared.data(), POISON, room.shared.size());
    std::vector<PtxWarp> warps(shape.block.x / WARP);
    for (size_t n = 0; n < warps.size(); ++n) {
        PtxWarp &w = warps[n];
        w.room = &room;
        w.registers.assign(size_t(p.registers) * WARP, 0x7fbadbad7fbadbad);
        w.local.assign(WARP * p.local_bytes, POISON);
        memset(w.at, 0, sizeof w.at);
        memset(w.groups, 0, sizeof w.groups);
        for (const auto &[r, bits] : p.constants) std::fill_n(row(w, r), WARP, bits);
        const unsigned special[] = {0, block.x, block.y, block.z, shape.block.x, shape.grid.x, shape.grid.y, shape.grid.z};
        for (int s = 0; s < 8; ++s) std::fill_n(row(w, p.special[s]), WARP, special[s]);
        for (int l = 0; l < WARP; ++l) row(w, p.special[0])[l] = n * WARP + l;
    }
    for (bool done = false; !done;) {
        done = true;
        for (PtxWarp &w : warps) {
            run(w);
            done = done && w.left == ~0u;
        }
        // Lanes that have left no longer count.
        for (PtxWarp &w : warps) w.at_barrier = 0;
    }
    uint64_t issued = 0;
    for (const PtxWarp &w : warps) issued += w.issued;
    return issued;
}

} // namespace

std::shared_ptr<const Program> read_program(const std::string &image, const char *name, std::string &message) {
    try {
        Reader reader;
        reader.kernel(image, name);
        return std::make_shared<const Program>(std::move(reader.p));
    } catch (const std::string &why) {
        message = std::string("PTX of ") + name + ": " + why;
        return nullptr;
    }
}

uint64_t issued_by_a_block(const Program &p, const unsigned (&grid)[3], const unsigned (&size)[3], const std::vector<std::string> &arguments) {
    const Shape shape = {{grid[0], grid[1], grid[2]}, {size[0], size[1], size[2]}};
    return run_block(p, {grid[0] / 2, grid[1] / 2, grid[2] / 2}, shape, arguments);
}

bool launch(const Program &p, const unsigned (&grid)[3], const unsigned (&size)[3], const std::vector<std::string> &arguments,
            std::string &message) {
    const Shape shape = {{grid[0], grid[1], grid[2]}, {size[0], size[1], size[2]}};
    if (arguments.size() != p.params.size()) return message = "PTX of " + p.name + ": another number of parameters", false;
    std::mutex guard;
    return over_blocks(grid, [&](const uint3 &block, uint64_t) {
        try {
            run_block(p, block, shape, arguments);
            return true;
        } catch (const std::string &why) {
            char where[120];
            snprintf(where, sizeof where, "PTX of %s, block (%u, %u, %u): ", p.name.c_str(), block.x, block.y, block.z);
            std::lock_guard<std::mutex> lock(guard);
            message = where + why;
            return false;
        }
    });
}

} // namespace emulated
