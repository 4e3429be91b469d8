// Two-time correlation of a dynamic bin: its counts as a matrix (frame, column), products of all frames, the map.
//
// A column is a pixel; pixels that share their weights (a group) are neighbours, each group filled up with empty columns
// to a multiple of DEPTH. Whole numbers are kept as digits of base 256 in f16, a matrix (plane) for each digit, so that
// the tensor cores multiply them exactly; other values as float32, multiplied in float64. Rows are filled up with empty
// frames to a multiple of ROWS. Weights are applied to the sums of products of a group, in float64.
#include "tensor.cuh"

// A digit's base.
const u32 BASE = 256;

// Of the products that a block computes, by 8 warps of 32 x 32: frames, later frames; columns at once.
const u32 ROWS = 128, COLS = 64, DEPTH = 32;

// Half numbers from one row to the next in shared memory: banks differ, and tiles stay aligned.
const u32 STRIDE = DEPTH + 8;

// Of the products that a block computes in float64.
const u32 PLAIN = 64, PLAIN_DEPTH = 16;

// Threads of a block that computes products, and such blocks that a multiprocessor is to run at once: one waits for memory
// while the other multiplies.
const u32 GRAM_THREADS = 256, GRAM_BLOCKS = 2;

// Blocks that run at the same time should share their rows and columns: so many blocks down by so many across follow one
// another, 1536 frames by 1408, which is 2 blocks for each of an H100's 132 multiprocessors.
const u32 GROUP_DOWN = 12, GROUP_ACROSS = 22;

// Rows of a map that are added before those of the next piece.
const u32 PIECE = 64;

// Writes a whole number's digits; remembers the largest number.
DEVICE void write_digits(u64 value, u16 *digits, u64 plane, u32 planes, u64 at, u64 *most) {
    // what is read may be older and then smaller: that costs an atomic, no more
    if (value > *most) atomicMax(most, value);
    for (u32 k = 0; k < planes; ++k, value /= BASE) digits[k * plane + at] = to_half(u32(value % BASE));
}

// The columns of `count` frames, each the sum of `avg` raw ones of `row` cells. cells: of each column, NONE of an empty
// one.
template <typename T>
DEVICE void columns(const T *frames, u32 row, u32 avg, const u32 *cells, u32 columns, u32 count, u32 planes, u64 plane,
                    u64 *most, u16 *digits) {
    for (u64 k = u64(blockIdx.x) * blockDim.x + threadIdx.x; k < u64(columns) * count; k += u64(gridDim.x) * blockDim.x) {
        u32 cell = cells[k % columns];
        if (cell == NONE) continue;
        u64 own = k / columns * avg * row + cell, sum = 0;
        for (u32 raw = 0; raw < avg; ++raw) {
            auto count = count_at(frames, own + u64(raw) * row);
            if (count > 0) sum += u64(count);
        }
        write_digits(sum, digits, plane, planes, k, most);
    }
}

#define COLUMNS(name, T)                                                                                                 \
    KERNEL name(const T *frames, u32 row, u32 avg, const u32 *cells, u32 width,  u32 count, u32 planes, u64 plane,       \
                u64 *most, u16 *digits) {                                                                                \
        columns<T>(frames, row, avg, cells, width, count, planes, plane, most, digits);                                  \
    }

COLUMNS(columns_u2, u2)
COLUMNS(columns_u8, u8)
COLUMNS(columns_u16, u16)
COLUMNS(columns_u32, u32)
COLUMNS(columns_i16, short)
COLUMNS(columns_i32, int)

KERNEL columns_f32(const float *frames, u32 row, u32 avg, const u32 *cells, u32 columns, u32 count, float *values) {
    for (u64 k = u64(blockIdx.x) * blockDim.x + threadIdx.x; k < u64(columns) * count; k += u64(gridDim.x) * blockDim.x) {
        u32 cell = cells[k % columns];
        if (cell == NONE) continue;
        const float *own = frames + k / columns * avg * row + cell;
        float sum = 0;
        for (u32 raw = 0; raw < avg; ++raw) sum += own[u64(raw) * row];
        values[k] = sum;
    }
}

// The counts that a pixel has in the frame of its event `k`, if that is the frame's first; events as events.cu files and
// sorts them.
DEVICE u64 counts_at(const u64 *own, u32 number, u32 k) {
    u64 frame = own[k] >> 16, sum = 0;
    if (k > 0 && own[k - 1] >> 16 == frame) return 0;
    for (; k < number && own[k] >> 16 == frame; ++k) sum += own[k] & 0xffffu;
    return sum;
}

// The most counts of a column and frame, from sorted events; a warp a column.
KERNEL events_most(const u64 *filed, const u32 *starts, u32 columns, u64 *most) {
    u32 column = warp_index();
    if (column >= columns) return;
    const u64 *own = filed + starts[column];
    u32 number = starts[column + 1] - starts[column];
    u64 largest = 0;
    for (u32 k = lane(); k < number; k += WARP) largest = max(largest, counts_at(own, number, k));
    if (largest > *most) atomicMax(most, largest);
}

// The columns of sorted events, over zeros; a warp a column.
KERNEL columns_events(const u64 *filed, const u32 *starts, u32 columns, u32 planes, u64 plane, u64 *most, u16 *digits) {
    u32 column = warp_index();
    if (column >= columns) return;
    const u64 *own = filed + starts[column];
    u32 number = starts[column + 1] - starts[column];
    for (u32 k = lane(); k < number; k += WARP) {
        u64 sum = counts_at(own, number, k);
        if (sum > 0) write_digits(sum, digits, plane, planes, (own[k] >> 16) * columns + column, most);
    }
}

// Counts of each group (begin, end) in each frame, a warp for each. totals: (group, frame).
KERNEL group_totals(const u16 *digits, u64 plane, u32 planes, u32 columns, u32 frames, const u32 *groups, u32 number,
                    double *totals) {
    u32 group = warp_index() / frames, frame = warp_index() % frames;
    if (group >= number) return;
    double sum = 0;
    for (u32 k = groups[2 * group] + lane(); k < groups[2 * group + 1]; k += WARP) {
        double scale = 1.0;
        for (u32 digit = 0; digit < planes; ++digit, scale *= BASE) {
            sum += scale * from_half(digits[digit * plane + u64(frame) * columns + k]);
        }
    }
    sum = warp_sum(sum);
    if (lane() == 0) totals[u64(group) * frames + frame] = sum;
}

KERNEL group_totals_f32(const float *values, u32 columns, u32 frames, const u32 *groups, u32 number, double *totals) {
    u32 group = warp_index() / frames, frame = warp_index() % frames;
    if (group >= number) return;
    double sum = 0;
    for (u32 k = groups[2 * group] + lane(); k < groups[2 * group + 1]; k += WARP) {
        sum += double(values[u64(frame) * columns + k]);
    }
    sum = warp_sum(sum);
    if (lane() == 0) totals[u64(group) * frames + frame] = sum;
}

// 16 bytes that are copied at once.
struct alignas(16) Quad {
    u32 words[4];
};

// Eight half numbers.
const u32 EIGHT = 8;

// What a thread fetches of a block's tiles of both factors: two and one.
struct Fetch {
    const u16 *rows, *cols;
    u32 columns;
    Quad own[3];

    DEVICE static u32 row(u32 part) { return (threadIdx.x + part * 256) / (DEPTH / EIGHT); }
    DEVICE static u32 depth() { return threadIdx.x % (DEPTH / EIGHT) * EIGHT; }

    DEVICE void fetch(u32 column) {
        u32 at = column + depth();
        own[0] = *reinterpret_cast<const Quad *>(rows + u64(row(0)) * columns + at);
        own[1] = *reinterpret_cast<const Quad *>(rows + u64(row(1)) * columns + at);
        own[2] = *reinterpret_cast<const Quad *>(cols + u64(row(0)) * columns + at);
    }

    DEVICE void put(u16 *a, u16 *b) const {
        *reinterpret_cast<Quad *>(a + row(0) * STRIDE + depth()) = own[0];
        *reinterpret_cast<Quad *>(a + row(1) * STRIDE + depth()) = own[1];
        *reinterpret_cast<Quad *>(b + row(0) * STRIDE + depth()) = own[2];
    }
};

// Where a warp's 32 x 32 products are in the block's.
DEVICE u32 warp_row() { return threadIdx.x / WARP / 2 * 32; }
DEVICE u32 warp_col() { return threadIdx.x / WARP % 2 * 32; }

// Products of the columns begin..end, in two by two tiles.
DEVICE void multiply_columns(Fetch &from, u32 begin, u32 end, u16 *a, u16 *b, Products (&sums)[2][2]) {
    from.fetch(begin);
    for (u32 column = begin; column < end; column += DEPTH) {
        __syncthreads();
        from.put(a, b);
        __syncthreads();
        if (column + DEPTH < end) from.fetch(column + DEPTH);
#pragma unroll
        for (u32 depth = 0; depth < DEPTH; depth += TILE) {
            Factors rows[2], cols[2];
#pragma unroll
            for (u32 k = 0; k < 2; ++k) {
                load_rows(rows[k], a + (warp_row() + k * TILE) * STRIDE + depth, STRIDE);
                load_columns(cols[k], b + (warp_col() + k * TILE) * STRIDE + depth, STRIDE);
            }
#pragma unroll
            for (u32 k = 0; k < 4; ++k) multiply(sums[k / 2][k % 2], rows[k / 2], cols[k % 2]);
        }
    }
}

// Which of the `down` x `across` blocks of the products a block computes.
struct Tile {
    u32 row, col;
};

DEVICE Tile tile_of(u32 block, u32 down, u32 across) {
    u32 top = block / (GROUP_DOWN * across) * GROUP_DOWN, height = min(GROUP_DOWN, down - top);
    u32 within = block % (GROUP_DOWN * across);
    u32 left = within / (height * GROUP_ACROSS) * GROUP_ACROSS, width = min(GROUP_ACROSS, across - left);
    within %= height * GROUP_ACROSS;
    return {top + within / width, left + within % width};
}

// A frame's weight; 0 behind the last frame.
DEVICE double weight(const double *weights, u32 frame, u32 frames) { return frame < frames ? weights[frame] : 0.0; }

// Adds to `out`, (frame - first, later frame), the weighted products of the frames first..first + rows with all that are
// later; what is earlier is anything. GRAM_THREADS a block, a block for each ROWS x COLS of rows x frames.
//
// groups: begin and end of each; weights: (group, frame). chunk: columns whose sums of products are exact.
KERNEL_OF(GRAM_THREADS, GRAM_BLOCKS)
gram_digits(const u16 *digits, u64 plane, u32 planes, u32 columns, u32 frames, u32 first, u32 rows, const u32 *groups,
            u32 number, const double *weights, u32 chunk, double *out) {
    SHARED(shared);
    u16 *a = reinterpret_cast<u16 *>(shared), *b = a + ROWS * STRIDE;
    float *own = reinterpret_cast<float *>(b + COLS * STRIDE) + threadIdx.x / WARP * TILE * TILE;
    Tile tile = tile_of(blockIdx.x, (rows + ROWS - 1) / ROWS, (frames + COLS - 1) / COLS);
    u32 row0 = first + tile.row * ROWS, col0 = tile.col * COLS;
    if (col0 + COLS <= row0) return;
    u32 row = row0 + warp_row() + lane() / 2, col = col0 + warp_col() + lane() % 2 * 8;
    double sums[4][8] = {};
    for (u32 pair = 0; pair < planes * planes; ++pair) {
        u32 high = pair / planes, low = pair % planes;
        const u16 *left_digits = digits + high * plane, *right_digits = digits + low * plane;
        Fetch from = {left_digits + u64(row0) * columns, right_digits + u64(col0) * columns, columns, {}};
        double scale = 1.0;
        for (u32 k = 0; k < high + low; ++k) scale *= BASE;
        for (u32 group = 0; group < number; ++group) {
            u32 end = groups[2 * group + 1];
            const double *own_weights = weights + u64(group) * frames;
            for (u32 begin = groups[2 * group]; begin < end; begin += chunk) {
                Products products[2][2] = {};
                multiply_columns(from, begin, min(begin + chunk, end), a, b, products);
#pragma unroll
                for (u32 k = 0; k < 4; ++k) {
                    leave(own, products[k / 2][k % 2]);
                    __syncwarp();
                    double left = scale * weight(own_weights, row + k / 2 * TILE, frames);
#pragma unroll
                    for (u32 c = 0; c < 8; ++c) {
                        double right = weight(own_weights, col + k % 2 * TILE + c, frames);
                        sums[k][c] += left * right * double(own[lane() / 2 * TILE + lane() % 2 * 8 + c]);
                    }
                    __syncwarp();
                }
            }
        }
    }
    for (u32 k = 0; k < 4; ++k) {
        u32 t = row + k / 2 * TILE;
        for (u32 c = 0; c < 8; ++c) {
            u32 later = col + k % 2 * TILE + c;
            if (t < min(first + rows, frames) && later < frames) out[u64(t - first) * frames + later] += sums[k][c];
        }
    }
}

// The same for float32, in float64: a block for each PLAIN x PLAIN.
KERNEL gram_f32(const float *values, u32 columns, u32 frames, u32 first, u32 rows, const u32 *groups, u32 number,
                const double *weights, double *out) {
    SHARED(shared);
    const u32 STEP = PLAIN_DEPTH + 1;
    // in double from here on, so that each value is converted once, not for each product
    double *a = reinterpret_cast<double *>(shared), *b = a + PLAIN * STEP;
    Tile tile = tile_of(blockIdx.x, (rows + PLAIN - 1) / PLAIN, (frames + PLAIN - 1) / PLAIN);
    u32 row0 = first + tile.row * PLAIN, col0 = tile.col * PLAIN;
    if (col0 + PLAIN <= row0) return;
    u32 x = threadIdx.x % 16, y = threadIdx.x / 16;
    double sums[4][4] = {};
    for (u32 group = 0; group < number; ++group) {
        double products[4][4] = {};
        for (u32 begin = groups[2 * group]; begin < groups[2 * group + 1]; begin += PLAIN_DEPTH) {
            __syncthreads();
            for (u32 k = threadIdx.x; k < PLAIN * PLAIN_DEPTH; k += blockDim.x) {
                u32 r = k / PLAIN_DEPTH, depth = k % PLAIN_DEPTH;
                a[r * STEP + depth] = double(values[u64(row0 + r) * columns + begin + depth]);
                b[r * STEP + depth] = double(values[u64(col0 + r) * columns + begin + depth]);
            }
            __syncthreads();
            for (u32 depth = 0; depth < PLAIN_DEPTH; ++depth) {
#pragma unroll
                for (u32 k = 0; k < 16; ++k) {
                    products[k / 4][k % 4] += a[(y + k / 4 * 16) * STEP + depth] * b[(x + k % 4 * 16) * STEP + depth];
                }
            }
        }
        const double *own = weights + u64(group) * frames;
#pragma unroll
        for (u32 k = 0; k < 16; ++k) {
            double left = weight(own, row0 + y + k / 4 * 16, frames), right = weight(own, col0 + x + k % 4 * 16, frames);
            sums[k / 4][k % 4] += left * right * products[k / 4][k % 4];
        }
    }
    for (u32 k = 0; k < 16; ++k) {
        u32 t = row0 + y + k / 4 * 16, later = col0 + x + k % 4 * 16;
        if (t < min(first + rows, frames) && later < frames) out[u64(t - first) * frames + later] += sums[k / 4][k % 4];
    }
}

// From sums of products to some rows of the map: upper triangle with diagonal, 0 below. scales: of each frame.
KERNEL map_rows(const double *sums, u32 frames, u32 first, u32 rows, u32 pixels, const double *scales, float *map) {
    for (u64 k = u64(blockIdx.x) * blockDim.x + threadIdx.x; k < u64(rows) * frames; k += u64(gridDim.x) * blockDim.x) {
        u32 frame = first + u32(k / frames), later = u32(k % frames);
        map[k] = later < frame ? 0.0f : float(sums[k] * pixels * scales[frame] * scales[later]);
    }
}

// Sums of the diagonals of the frames begin..end, as far as they are in the rows first..first + rows of the map; rows
// are added PIECE by PIECE. partial: (piece, delay).
KERNEL diagonal_pieces(const float *map, u32 frames, u32 first, u32 rows, u32 begin, u32 end, u32 pieces, double *partial) {
    u32 delays = end - begin, from = max(first, begin), last = min(first + rows, end);
    for (u64 k = u64(blockIdx.x) * blockDim.x + threadIdx.x; k < u64(pieces) * delays; k += u64(gridDim.x) * blockDim.x) {
        u32 delay = u32(k % delays), row = from + u32(k / delays) * PIECE;
        u32 stop = min(row + PIECE, last);
        double sum = 0;
        for (; row < stop && row + delay < end; ++row) sum += double(map[u64(row - first) * frames + row + delay]);
        partial[k] = sum;
    }
}

// Adds the pieces of each delay to its total.
KERNEL diagonal_totals(const double *partial, u32 pieces, u32 delays, double *totals) {
    u32 delay = blockIdx.x * blockDim.x + threadIdx.x;
    if (delay >= delays) return;
    double sum = 0;
    for (u32 piece = 0; piece < pieces; ++piece) sum += partial[u64(piece) * delays + delay];
    totals[delay] += sum;
}
