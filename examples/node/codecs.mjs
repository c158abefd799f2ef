// kafkajs itself reads uncompressed records and gzip. This adds lz4, which Leadstream writes, snappy and zstd.

import kafkajs from 'kafkajs'
import lz4 from 'lz4-napi'
import snappy from 'snappy'
import { decompress as unzstd } from 'fzstd'

const { CompressionCodecs, CompressionTypes } = kafkajs

function readOnly(name, decompress) {
  const compress = async () => { throw new Error(`this example reads ${name} and does not write it: use lz4 or gzip`) }
  return () => ({ compress, decompress })
}

// Java's snappy writes a header and blocks with a length each, librdkafka one bare block.
const XERIAL = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0])
async function unsnappy(bytes) {
  if (!bytes.subarray(0, XERIAL.length).equals(XERIAL)) return snappy.uncompress(bytes)
  const blocks = []
  for (let at = 16; at < bytes.length;) {
    const end = at + 4 + bytes.readUInt32BE(at)
    blocks.push(await snappy.uncompress(bytes.subarray(at + 4, end)))
    at = end
  }
  return Buffer.concat(blocks)
}

CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: async (bytes) => lz4.decompressFrame(bytes)
})
CompressionCodecs[CompressionTypes.Snappy] = readOnly('snappy', unsnappy)
CompressionCodecs[CompressionTypes.ZSTD] = readOnly('zstd', async (bytes) => Buffer.from(unzstd(bytes)))
