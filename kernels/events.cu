// Multi-tau of photon events: sums that need no order, events filed by pixel and sorted by frame, then one warp a pixel,
// whose cost follows its events.
//
// An event is bits 40-63 raw frame, 16-39 pixel of the image, 0-15 count (dataset::Event); filed under its place, the
// pixel's position in the working order, it is the analysis frame from bit 16 on and the count. Integers are added by
// atomics, which gives the same sums in any order; floating-point numbers by one warp, in one order.
#include "common.cuh"

DEVICE u32 pixel_of(u64 event) { return u32(event >> 16) & 0xffffffu; }
DEVICE u32 count_of(u64 event) { return u32(event) & 0xffffu; }
// Of a filed event.
DEVICE u32 frame_of(u64 filed) { return u32(filed >> 16); }

// The frames that are taken: correlate::window's FrameSelection.
struct Selection {
    u32 first, stride, avg, outputs;
};

// The analysis frame of an event, or NONE if it is not taken.
DEVICE u32 output_of(const Selection &selection, u64 event) {
    u32 raw = u32(event >> 40);
    if (raw < selection.first || (raw - selection.first) % selection.stride != 0) return NONE;
    u32 output = (raw - selection.first) / selection.stride / selection.avg;
    return output < selection.outputs ? output : NONE;
}

// Sums of neighbouring lanes with the same key, in the last lane of each run of them; 0 in the others. All lanes take part.
DEVICE u32 sum_of_run(u32 key, u32 value) {
    u32 left = __shfl_up_sync(ALL, key, 1u), right = __shfl_down_sync(ALL, key, 1u);
    u32 heads = __ballot_sync(ALL, lane() == 0 || left != key);
    // lanes before this one in its run
    u32 behind = __clz(heads << (WARP - 1 - lane()));
#pragma unroll
    for (u32 distance = 1; distance < WARP; distance *= 2) {
        u32 other = __shfl_up_sync(ALL, value, distance);
        if (behind >= distance) value += other;
    }
    return lane() == WARP - 1 || right != key ? value : 0;
}

// Adds the counts of some events to the sums of their pixels, frames and segments, and counts the events of each place.
//
// Events of a frame follow one another: their sum is made in the warp, so that not all of the device's threads add to the
// same few numbers. Sums of segments are made in shared memory where it holds all of them (`shared_cells` of 4 bytes, else
// 0): a block has few enough events that 32 bits suffice.
//
// places: place of each pixel of the image, or NONE. statics: of each place, 1-based; 0 = not in the segments' bins.
// segment_sums: (segment, static bin).
KERNEL events_count(const u64 *events, u32 number, Selection selection, const u32 *places, const u32 *statics, u32 segment_shift, u32 segments,
                    u32 static_bins, u32 shared_cells, u64 *pixel_sums, u64 *frame_sums, u64 *segment_sums, u32 *place_events) {
    SHARED(shared);
    u32 *own_segments = reinterpret_cast<u32 *>(shared);
    for (u32 cell = threadIdx.x; cell < shared_cells; cell += blockDim.x) own_segments[cell] = 0;
    __syncthreads();
    // of a warp all lanes go on as long as one of them has an event
    for (u64 first = u64(warp_index()) * WARP; first < number; first += u64(gridDim.x) * blockDim.x) {
        u64 k = first + lane();
        u64 event = k < number ? events[k] : 0;
        u32 count = count_of(event), frame = k < number ? output_of(selection, event) : NONE, place = NONE;
        if (frame != NONE) {
            atomicAdd(&pixel_sums[pixel_of(event)], u64(count));
            place = places[pixel_of(event)];
        }
        u32 sum = sum_of_run(frame, place == NONE ? 0 : count);
        if (sum > 0) atomicAdd(&frame_sums[frame], u64(sum));
        if (place == NONE) continue;
        atomicAdd(&place_events[place], 1u);
        u32 segment = frame >> segment_shift;
        if (statics[place] == 0 || segment >= segments) continue;
        u32 cell = segment * static_bins + statics[place] - 1;
        if (shared_cells > 0) {
            atomicAdd(&own_segments[cell], count);
        } else {
            atomicAdd(&segment_sums[cell], u64(count));
        }
    }
    __syncthreads();
    for (u32 cell = threadIdx.x; cell < shared_cells; cell += blockDim.x) {
        if (own_segments[cell] > 0) atomicAdd(&segment_sums[cell], u64(own_segments[cell]));
    }
}

// Files the events of the places first..end; `cursors` begin as the places' starts, counted from `first`. The order
// within a place is any.
KERNEL events_file(const u64 *events, u32 number, Selection selection, const u32 *places, u32 first, u32 end, u32 *cursors, u64 *filed) {
    for (u32 k = blockIdx.x * blockDim.x + threadIdx.x; k < number; k += gridDim.x * blockDim.x) {
        u64 event = events[k];
        u32 frame = output_of(selection, event), place = places[pixel_of(event)];
        if (frame == NONE || place < first || place >= end) continue;
        filed[atomicAdd(&cursors[place - first], 1u)] = u64(frame) << 16 | count_of(event);
    }
}

// Compares two events of a place and puts the earlier first; those past the end are later than all.
DEVICE void order(u64 *own, u32 number, u32 low, u32 high) {
    if (high >= number) return;
    u64 a = own[low], b = own[high];
    if (b < a) {
        own[low] = b;
        own[high] = a;
    }
}

// Events that a warp sorts in shared memory: more would leave a multiprocessor too few warps, fewer would go through the
// device's memory more often.
const u32 SORT_TILE = 512;

// Of a power of two.
DEVICE u32 log2_of(u32 power) { return 31 - __clz(power); }

// Batcher's bitonic network, in the form whose comparisons all point the same way, so that events past the end need not
// exist, is made of two kinds of stages over `width` events: the first of a run compares it with its mirror image,
DEVICE void mirror(u64 *own, u32 number, u32 width, u32 run) {
    u32 shift = log2_of(run);
    for (u32 k = lane(); k < width / 2; k += WARP) {
        u32 base = k >> (shift - 1) << shift, offset = k & (run / 2 - 1);
        order(own, number, base + offset, base + run - 1 - offset);
    }
    __syncwarp();
}

// the others compare halves of what is twice as long. Both lengths are powers of two.
DEVICE void halves(u64 *own, u32 number, u32 width, u32 half) {
    u32 shift = log2_of(half);
    for (u32 k = lane(); k < width / 2; k += WARP) {
        u32 low = (k >> shift << (shift + 1)) + (k & (half - 1));
        order(own, number, low, low + half);
    }
    __syncwarp();
}

// The least power of two that is not less.
DEVICE u32 width_of(u32 number) {
    u32 width = 1;
    while (width < number) width *= 2;
    return width;
}

// Has the tiles of some events go through the stages that stay within a tile: all of the runs `first`..SORT_TILE, or, where
// `first` is more than that, the last stages of such a run.
DEVICE void in_tiles(u64 *own, u32 number, u32 first, u64 *tile) {
    for (u32 base = 0; base < number; base += SORT_TILE) {
        u32 count = min(SORT_TILE, number - base), width = width_of(count);
        for (u32 k = lane(); k < count; k += WARP) tile[k] = own[base + k];
        __syncwarp();
        for (u32 run = first; run <= width; run *= 2) {
            mirror(tile, count, width, run);
            for (u32 half = run / 4; half > 0; half /= 2) halves(tile, count, width, half);
        }
        if (first > SORT_TILE) {
            for (u32 half = width / 2; half > 0; half /= 2) halves(tile, count, width, half);
        }
        for (u32 k = lane(); k < count; k += WARP) own[base + k] = tile[k];
        __syncwarp();
    }
}

// Sorts the events of each place, a warp a place. Its tiles take 8 * SORT_TILE bytes of shared memory a warp.
KERNEL events_sort(const u32 *starts, u32 places, u64 *filed) {
    SHARED(shared);
    u32 place = warp_index();
    if (place >= places) return;
    u64 *own = filed + starts[place], *tile = reinterpret_cast<u64 *>(shared) + threadIdx.x / WARP * SORT_TILE;
    u32 number = starts[place + 1] - starts[place];
    bool sorted = true;
    for (u32 k = lane() + 1; k < number; k += WARP) sorted = sorted && own[k - 1] <= own[k];
    if (__ballot_sync(ALL, sorted) == ALL) return;
    u32 width = width_of(number);
    in_tiles(own, number, 2, tile);
    for (u32 run = 2 * SORT_TILE; run <= width; run *= 2) {
        mirror(own, number, width, run);
        for (u32 half = run / 4; half >= SORT_TILE; half /= 2) halves(own, number, width, half);
        in_tiles(own, number, run, tile);
    }
}

// A pixel's samples of one level that have counts.
struct Series {
    u32 *times;
    double *values;
    u32 length;
};

// The samples of the finest level: events of a frame are added and multiplied by the frame's factor.
DEVICE void read(Series &series, const u64 *own, u32 number, u32 start, u32 end, const double *factors) {
    series.length = 0;
    for (u32 base = 0; base < number; base += WARP) {
        u32 k = base + lane();
        u32 frame = k < number ? frame_of(own[k]) : NONE;
        bool head = k < number && frame >= start && frame < end && (k == 0 || frame_of(own[k - 1]) != frame);
        u64 count = 0;
        for (u32 same = k; head && same < number && frame_of(own[same]) == frame; ++same) count += count_of(own[same]);
        u32 heads = __ballot_sync(ALL, head);
        if (head) {
            series.times[series.length + before(heads)] = frame - start;
            series.values[series.length + before(heads)] = double(count) * factors[frame];
        }
        series.length += __popc(heads);
    }
    __syncwarp();
}

// Sums of one level for each of its lags, where they are kept: G2, later and earlier of `delays` each.
//
// The samples that belong to the later and the earlier mean of every lag are added once; nothing is subtracted, so that
// no digit is lost.
DEVICE void correlate(const Series &series, const Level &level, u32 delays, double *sums) {
    double products[8] = {}, later[8] = {}, earlier[8] = {}, middle = 0;
    u32 widest = level.first_lag + level.lags - 1;
    for (u32 k = lane(); k < series.length; k += WARP) {
        u32 time = series.times[k], rest = level.samples - 1 - time;
        double value = series.values[k];
        for (u32 next = k + 1; next < series.length; ++next) {
            u32 lag = series.times[next] - time;
            if (lag > widest) break;
            double product = value * series.values[next];
#pragma unroll
            for (u32 l = 0; l < 8; ++l) products[l] += lag == l + 1 ? product : 0.0;
        }
        if (time >= widest && rest >= widest) {
            middle += value;
        } else {
#pragma unroll
            for (u32 l = 0; l < 8; ++l) {
                later[l] += time >= l + 1 ? value : 0.0;
                earlier[l] += rest >= l + 1 ? value : 0.0;
            }
        }
    }
    middle = warp_sum(middle);
#pragma unroll
    for (u32 l = 0; l < 8; ++l) {
        u32 k = l + 1 - level.first_lag;
        if (k >= level.lags) continue;
        double product = warp_sum(products[l]), late = warp_sum(later[l]), early = warp_sum(earlier[l]);
        if (lane() == 0) {
            sums[level.first + k] = product * level.products[k];
            sums[delays + level.first + k] = (late + middle) * level.means[k];
            sums[2 * delays + level.first + k] = (early + middle) * level.means[k];
        }
    }
}

// Two samples become one of the next level; a sample without its other half at the series' end stays for now.
DEVICE void coarsen(Series &series) {
    u32 kept = 0, last = NONE;
    for (u32 base = 0; base < series.length; base += WARP) {
        u32 k = base + lane();
        u32 time = k < series.length ? series.times[k] / 2 : NONE;
        double value = k < series.length ? series.values[k] : 0.0;
        u32 left = __shfl_up_sync(ALL, time, 1u);
        if (lane() == 0) left = last;
        bool head = k < series.length && time != left;
        if (head && k + 1 < series.length && series.times[k + 1] / 2 == time) value += series.values[k + 1];
        last = __shfl_sync(ALL, time, WARP - 1);
        u32 heads = __ballot_sync(ALL, head);
        // all have read what is written over now: an exchange of values does not say so
        __syncwarp();
        if (head) {
            series.times[kept + before(heads)] = time;
            series.values[kept + before(heads)] = value;
        }
        kept += __popc(heads);
        __syncwarp();
    }
    series.length = kept;
}

// Multi-tau of the frames start..end of each place, a warp a place.
//
// filed: sorted events of the places; starts: one more than there are places. factors: of each frame. room: the samples that
// shared memory has for each warp (12 bytes each). times, values: room for as many samples as there are events, of the places
// that have more than that alone; rooms: where it begins for each place. sums: (place, channel, delay): means of later times
// earlier, later, earlier.
KERNEL events_multitau(const u64 *filed, const u32 *starts, u32 places, const double *factors, u32 start, u32 end,
                       const Level *levels, u32 level_count, u32 delays, u32 room, const u32 *rooms, u32 *times,
                       double *values, double *sums) {
    SHARED(shared);
    u32 place = warp_index();
    if (place >= places) return;
    u32 number = starts[place + 1] - starts[place];
    Series series = {times + rooms[place], values + rooms[place], 0};
    if (number <= room) {
        u32 warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
        series.values = reinterpret_cast<double *>(shared) + warp * room;
        series.times = reinterpret_cast<u32 *>(shared + warps * room * sizeof(double)) + warp * room;
    }
    double *own = sums + u64(place) * 3 * delays;
    for (u32 k = lane(); k < 3 * delays; k += WARP) own[k] = 0.0;
    read(series, filed + starts[place], number, start, end, factors);
    for (u32 k = 0; k < level_count; ++k) {
        while (series.length > 0 && series.times[series.length - 1] >= levels[k].samples) --series.length;
        if (series.length == 0) return;
        correlate(series, levels[k], delays, own);
        __syncwarp();
        coarsen(series);
    }
}
